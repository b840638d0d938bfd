import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PreparedData } from '../../../src/data/index.ts';
import { average, close, type Vector } from './plain-vectors.ts';
import {
  CLASSES,
  gradient,
  LR,
  mean,
  type Reference,
  smallFederation,
  smallTable,
  softmax,
} from './small-federation.ts';

// Each strategy against its paper's algorithm, written down with plain numbers and gradients by central differences.

let dir: string;
let data: PreparedData;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-personal-'));
  data = await smallTable(dir);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const COHORTS = [
  [0, 1],
  [1, 2],
  [0, 2],
  [0, 1],
];

const minus = (a: Vector, b: Vector, scale = 1) => a.map((value, i) => value - scale * (b[i] as number));
const plus = (a: Vector, b: Vector, scale = 1) => minus(a, b, -scale);
const dot = (a: Vector, b: Vector) => a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
/** Plain gradient descent over batches, with more added to the loss. */
const descend = (
  { loss }: Reference,
  from: Vector,
  batches: readonly Int32Array[],
  more: (w: Vector, batch: Int32Array) => number = () => 0,
) =>
  batches.reduce(
    (w, batch) =>
      minus(
        w,
        gradient((at) => loss(at, batch) + more(at, batch), w),
        LR,
      ),
    from,
  );

describe('personal models', () => {
  it('fedrep trains heads, then the representation under them', async () => {
    const { reference, examples, run } = await smallFederation(data, 'fedrep', { head_epochs: 2 });
    const { loss, batches, head } = reference;
    let w = reference.initial;
    const heads = new Map<number, Vector>();
    const personal = (k: number) => w.map((value, i) => (head[i] ? (heads.get(k)?.[i] ?? value) : value));
    for (const [round, cohort] of COHORTS.entries()) {
      const bodies: Vector[] = [];
      for (const k of cohort) {
        let own = personal(k);
        for (const batch of batches(round, k, { pass: 'personal', epochs: 2 })) {
          const g = gradient((at) => loss(at, batch), own);
          own = own.map((value, i) => (head[i] ? value - LR * (g[i] as number) : value));
        }
        for (const batch of batches(round, k)) {
          const g = gradient((at) => loss(at, batch), own);
          own = own.map((value, i) => (head[i] ? value : value - LR * (g[i] as number)));
        }
        heads.set(k, own);
        bodies.push(own);
      }
      w = average(bodies).map((value, i) => (head[i] ? (w[i] as number) : value));
    }
    const found = await run(COHORTS);
    close(found.params, w);
    close(
      found.own,
      examples.map((own, k) => loss(personal(k), own)),
    );
  });

  it('ditto keeps a model near to the common one', async () => {
    const lambda = 0.4;
    const { reference, examples, run } = await smallFederation(data, 'ditto', { lambda, personal_epochs: 2 });
    const { loss, batches } = reference;
    let w = reference.initial;
    const own = new Map<number, Vector>();
    for (const [round, cohort] of COHORTS.entries()) {
      const common = cohort.map((k) => descend(reference, w, batches(round, k)));
      for (const k of cohort) {
        const near = (v: Vector) => (lambda / 2) * dot(minus(v, w), minus(v, w));
        own.set(k, descend(reference, own.get(k) ?? w, batches(round, k, { pass: 'own', epochs: 2 }), near));
      }
      w = average(
        common,
        cohort.map((k) => examples[k]?.length as number),
      );
    }
    const found = await run(COHORTS);
    close(found.params, w);
    close(
      found.own,
      examples.map((list, k) => loss(own.get(k) as Vector, list)),
    );
  });

  it('pfedme descends on Moreau envelopes', async () => {
    const [lambda, rate, steps, beta] = [2, 0.15, 3, 0.8];
    const settings = { lambda, personal_lr: rate, personal_steps: steps, beta };
    const { reference, examples, run } = await smallFederation(data, 'pfedme', settings);
    const { loss, batches } = reference;
    let w = reference.initial;
    const own = new Map<number, Vector>();
    for (const [round, cohort] of COHORTS.entries()) {
      const ends = cohort.map((k) => {
        let local = w;
        for (const batch of batches(round, k)) {
          let theta = local;
          for (let i = 0; i < steps; i++)
            theta = minus(
              theta,
              plus(
                gradient((at) => loss(at, batch), theta),
                minus(theta, local),
                lambda,
              ),
              rate,
            );
          local = minus(local, minus(local, theta), LR * lambda);
          own.set(k, theta);
        }
        return local;
      });
      w = plus(
        w.map((value) => (1 - beta) * value),
        average(ends),
        beta,
      );
    }
    const found = await run(COHORTS);
    close(found.params, w);
    close(
      found.own,
      examples.map((list, k) => loss(own.get(k) as Vector, list)),
    );
  });

  it.each([true, false])('apfl mixes a part of its own with the common model (adaptive: %s)', async (adaptive) => {
    const { reference, examples, run } = await smallFederation(data, 'apfl', { alpha: 0.6, adaptive });
    const { loss, batches } = reference;
    let w = reference.initial;
    const own = new Map<number, { v: Vector; alpha: number }>();
    const mixed = (v: Vector, common: Vector, alpha: number) =>
      v.map((value, i) => alpha * value + (1 - alpha) * (common[i] as number));
    for (const [round, cohort] of COHORTS.entries()) {
      const ends = cohort.map((k) => {
        let local = w;
        let { v, alpha } = own.get(k) ?? { v: w, alpha: 0.6 };
        for (const batch of batches(round, k)) {
          const common = local;
          const before = { v, alpha };
          const of = (part: Vector, share: number) => loss(mixed(part, common, share), batch);
          v = minus(
            v,
            gradient((at) => of(at, before.alpha), before.v),
            LR,
          );
          const slope = gradient(([share]) => of(before.v, share as number), Float64Array.of(alpha));
          if (adaptive) alpha = Math.min(1, Math.max(0, alpha - LR * (slope[0] as number)));
          local = minus(
            local,
            gradient((at) => loss(at, batch), local),
            LR,
          );
        }
        own.set(k, { v, alpha });
        return local;
      });
      w = average(ends);
    }
    const found = await run(COHORTS);
    close(found.params, w);
    close(
      found.own,
      examples.map((list, k) => {
        const { v, alpha } = own.get(k) as { v: Vector; alpha: number };
        return loss(mixed(v, w, alpha), list);
      }),
    );
  });

  it('a client that keeps nothing has the model of the server', async () => {
    for (const name of ['ditto', 'apfl', 'fedrep']) {
      const { reference, examples, run } = await smallFederation(data, name);
      const { own, params } = await run([[0, 1]]);
      expect(own[2]).toBeCloseTo(reference.loss(params, examples[2] as Int32Array), 5);
      expect(own[0]).not.toBeCloseTo(reference.loss(params, examples[0] as Int32Array), 5);
    }
  });
});

describe('fairness', () => {
  it.each([0, 1, 2.5])('qfedavg weighs by what was lost (q = %s)', async (q) => {
    const { reference, examples, run } = await smallFederation(data, 'qfedavg', { q });
    const { loss, batches } = reference;
    let w = reference.initial;
    for (const [round, cohort] of COHORTS.entries()) {
      const answers = cohort.map((k) => {
        const d = minus(w, descend(reference, w, batches(round, k))).map((value) => value / LR);
        const f = loss(w, examples[k] as Int32Array);
        return { delta: d.map((value) => f ** q * value), h: q * f ** (q - 1) * dot(d, d) + f ** q / LR };
      });
      const h = answers.reduce((sum, answer) => sum + answer.h, 0);
      for (const { delta } of answers) w = minus(w, delta, 1 / h);
    }
    close((await run(COHORTS)).params, w);
  });
});

describe('contrast', () => {
  it('moon draws representations to the server and away from the last fit', async () => {
    const [mu, temperature] = [1.5, 0.5];
    const { reference, examples, run } = await smallFederation(data, 'moon', { mu, temperature });
    const { batches, forward } = reference;
    const cosine = (a: readonly number[], b: readonly number[]) => {
      const product = (p: readonly number[], q: readonly number[]) =>
        p.reduce((sum, x, i) => sum + x * (q[i] as number), 0);
      return product(a, b) / Math.sqrt(product(a, a) * product(b, b));
    };
    let w = reference.initial;
    const last = new Map<number, Vector>();
    for (const [round, cohort] of COHORTS.entries()) {
      const ends = cohort.map((k) => {
        const [server, before] = [w, last.get(k) ?? w];
        const contrast = (at: Vector, batch: Int32Array) =>
          mu *
          mean(
            Array.from(batch, (example) => {
              const z = forward(at, example).features;
              const near = Math.exp(cosine(z, forward(server, example).features) / temperature);
              const far = Math.exp(cosine(z, forward(before, example).features) / temperature);
              return -Math.log(near / (near + far));
            }),
          );
        const end = descend(reference, w, batches(round, k), contrast);
        last.set(k, end);
        return end;
      });
      w = average(
        ends,
        cohort.map((k) => examples[k]?.length as number),
      );
    }
    close((await run(COHORTS)).params, w);
  });
});

describe('distillation', () => {
  it.each([true, false])('feddistill exchanges mean outputs of each class (parameters too: %s)', async (share) => {
    const gamma = 0.7;
    const { reference, examples, run } = await smallFederation(data, 'feddistill', { gamma, share_model: share });
    const { loss, batches, forward, y } = reference;
    let w = reference.initial;
    const own = new Map<number, Vector>();
    // Of each client, by class: the mean of its outputs, where it had any.
    const means = new Map<number, (number[] | null)[]>();
    for (const [round, cohort] of COHORTS.entries()) {
      const news = new Map<number, (number[] | null)[]>();
      const ends = cohort.map((k) => {
        const teachers = Array.from({ length: CLASSES }, (_, c) => {
          const others = [...means].flatMap(([client, of]) => (client === k || !of[c] ? [] : [of[c] as number[]]));
          return others.length === 0 ? null : softmax(others[0]!.map((__, j) => mean(others.map((o) => o[j]!))));
        });
        const seen = Array.from({ length: CLASSES }, () => [] as number[][]);
        let at = share ? w : (own.get(k) ?? w);
        for (const batch of batches(round, k)) {
          for (const example of batch) seen[y(example)]?.push(forward(at, example).logits);
          const lesson = (v: Vector) =>
            gamma *
            mean(
              Array.from(batch, (example) => {
                const teacher = teachers[y(example)];
                const said = softmax(forward(v, example).logits);
                return teacher ? -teacher.reduce((sum, p, j) => sum + p * Math.log(said[j] as number), 0) : 0;
              }),
            );
          at = descend(reference, at, [batch], lesson);
        }
        own.set(k, at);
        news.set(
          k,
          seen.map((list) => (list.length === 0 ? null : list[0]!.map((_, j) => mean(list.map((o) => o[j]!))))),
        );
        return at;
      });
      for (const [k, of] of news) means.set(k, of);
      if (share)
        w = average(
          ends,
          cohort.map((k) => examples[k]?.length as number),
        );
    }
    const found = await run(COHORTS);
    close(found.params, w);
    const counts = Array.from({ length: CLASSES }, (_, c) => [...means.values()].filter((of) => of[c]).length);
    expect([...(found.vectors.counts ?? [])]).toEqual(counts);
    close(
      found.own,
      examples.map((list, k) => loss(share ? w : (own.get(k) as Vector), list)),
    );
  });

  it('fedmd agrees on public examples', async () => {
    const settings = { public: 10, transfer_epochs: 2, digest_epochs: 1 };
    const { reference, examples, shared, run } = await smallFederation(data, 'fedmd', settings);
    const { loss, batches, forward } = reference;
    const over = shared as Int32Array;
    expect(over).toHaveLength(10);
    expect(examples.some((list) => list.some((example) => over.includes(example)))).toBe(false);
    const own = new Map<number, Vector>();
    let consensus: number[][] | null = null;
    for (const [round, cohort] of COHORTS.entries()) {
      const said: number[][][] = cohort.map((k) => {
        let at =
          own.get(k) ?? descend(reference, reference.initial, batches(round, k, { pass: 'transfer', epochs: 2, over }));
        const wanted = consensus;
        if (wanted)
          for (const batch of batches(round, k, { pass: 'digest', over })) {
            const apart = (v: Vector) =>
              mean(
                Array.from(batch, (example) =>
                  mean(forward(v, example).logits.map((o, j) => Math.abs(o - wanted[over.indexOf(example)]![j]!))),
                ),
              );
            at = minus(at, gradient(apart, at), LR);
          }
        at = descend(reference, at, batches(round, k));
        own.set(k, at);
        return Array.from(over, (example) => forward(at, example).logits);
      });
      consensus = said[0]!.map((row, i) => row.map((_, j) => mean(said.map((of) => of[i]![j]!))));
    }
    const found = await run(COHORTS);
    close(found.params, reference.initial, 6);
    close(found.vectors.consensus as Float32Array, consensus!.flat(), 3);
    close(
      found.own,
      examples.map((list, k) => loss(own.get(k) as Vector, list)),
    );
  });
});
