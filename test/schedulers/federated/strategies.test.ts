import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nn } from '../../../src/modules/index.ts';
import { buildOptimizer, optimSchema } from '../../../src/optim/index.ts';
import {
  type ClientReport,
  type FederatedServer,
  federatedStrategies,
  krumOrder,
  type RoundOutcome,
  type ServerShape,
} from '../../../src/schedulers/federated/index.ts';
import { vectorLayout } from '../../../src/schedulers/local/index.ts';

const size = 3;
const layout = vectorLayout([{ path: 'head.weight', spec: { shape: [size, 1] } }]);
const info = {
  inputs: [{ dtype: 'float32', shape: [size] }],
  targets: [{ dtype: 'int32', shape: [] }],
  classes: 1,
} as const;
const layers = [{ name: 'head', module: nn.linear(size, 1, { bias: false }) }];
const model = { model: { layers, loss: nn.crossEntropy() }, info };
const shape = { params: layout, state: vectorLayout([]), clients: 10, seed: 1, model };

function serverOf(name: string, settings: object = {}, more: Pick<ServerShape, 'optimizer'> = {}): FederatedServer {
  const strategy = federatedStrategies().get(name);
  if (!strategy) throw new Error(`no strategy ${name}`);
  return strategy.server(strategy.config.parse(settings), { ...shape, ...more });
}

interface Answer {
  readonly update: readonly number[];
  readonly examples?: number;
  readonly steps?: number;
  readonly kept?: Readonly<Record<string, Float32Array>>;
  readonly before?: Readonly<Record<string, Float32Array>>;
}

function outcomeOf(server: FederatedServer, answers: readonly Answer[], round = 0): RoundOutcome {
  const reports = answers.map(
    ({ update, examples = 10, steps = 2, kept = {} }, client): ClientReport => ({
      client,
      examples,
      steps,
      weight: server.weight?.({ examples, steps }) ?? examples,
      loss: 1,
      norm: Math.hypot(...update),
      kept,
      ms: 1,
      problem: null,
    }),
  );
  const sum = new Float32Array(size);
  answers.forEach(({ update }, k) => {
    update.forEach((value, i) => {
      sum[i] = (sum[i] as number) + value * (reports[k] as ClientReport).weight;
    });
  });
  return {
    round,
    sum: server.needs === 'sum' ? sum : null,
    weight: reports.reduce((total, { weight }) => total + weight, 0),
    updates:
      server.needs === 'each'
        ? answers.map(({ update }, k) => ({ update: Float32Array.from(update), report: reports[k] as ClientReport }))
        : [],
    reports,
    kept: (client, name) => answers[client]?.before?.[name] ?? null,
  };
}

/** Parameters after rounds that begin at 1, 2, 3. */
function rounds(server: FederatedServer, ...given: (readonly Answer[])[]): number[] {
  const params = Float32Array.of(1, 2, 3);
  given.forEach((answers, round) => {
    server.apply(outcomeOf(server, answers, round), params, new Float32Array(0));
  });
  return [...params];
}

const close = (found: readonly number[], expected: readonly number[]) => {
  expected.forEach((value, i) => {
    expect(found[i]).toBeCloseTo(value, 4);
  });
};

describe('averaging strategies', () => {
  it('fedavg weighs by examples', () => {
    close(
      rounds(serverOf('fedavg'), [
        { update: [1, 0, 0], examples: 30 },
        { update: [0, 1, -1], examples: 10 },
      ]),
      [1.75, 2.25, 2.75],
    );
  });

  it('fedavgm keeps a velocity', () => {
    const d: Answer[] = [{ update: [1, 2, -1] }];
    close(rounds(serverOf('fedavgm', { server_momentum: 0.5, server_lr: 0.1 }), d, d), [
      1 + 0.1 * (1 + 1.5),
      2 + 0.1 * (2 + 3),
      3 - 0.1 * (1 + 1.5),
    ]);
  });

  it.each([
    ['fedadam', (v: number, d: number) => 0.9 * v + 0.1 * d * d],
    ['fedyogi', (v: number, d: number) => v - 0.1 * d * d * Math.sign(v - d * d)],
    ['fedadagrad', (v: number, d: number) => v + d * d],
  ] as const)('%s follows algorithm 2 of its paper', (name, second) => {
    const settings = { server_lr: 0.3, beta1: 0.8, tau: 0.1, ...(name === 'fedadagrad' ? {} : { beta2: 0.9 }) };
    const directions = [
      [1, 2, -1],
      [0.5, -1, 0],
    ];
    const params = [1, 2, 3];
    const [m, v] = [
      [0, 0, 0],
      [0.01, 0.01, 0.01],
    ];
    for (const d of directions)
      params.forEach((_, i) => {
        m[i] = 0.8 * (m[i] as number) + 0.2 * (d[i] as number);
        v[i] = second(v[i] as number, d[i] as number);
        params[i] = (params[i] as number) + (0.3 * (m[i] as number)) / (Math.sqrt(v[i] as number) + 0.1);
      });
    close(rounds(serverOf(name, settings), ...directions.map((update) => [{ update }])), params);
  });

  it('fednova does not let those with more steps pull further', () => {
    const server = serverOf('fednova');
    // Two clients with the same direction a step; one makes four times the steps.
    const answers: Answer[] = [
      { update: [1, 0, 0], examples: 10, steps: 1 },
      { update: [0, 4, 0], examples: 10, steps: 4 },
    ];
    // Normalised directions [1,0,0] and [0,1,0], averaged, times the mean number of steps 2.5.
    close(rounds(server, answers), [1 + 1.25, 2 + 1.25, 3]);
    // With momentum 0.5 four steps along a constant gradient of 1 go 1 + 1.5 + 1.75 + 1.875 = 6.125, one goes 1.
    const far: Answer[] = [
      { update: [1, 0, 0], examples: 10, steps: 1 },
      { update: [0, 6.125, 0], examples: 10, steps: 4 },
    ];
    const mean = (1 + 6.125) / 2;
    const { optimizer } = buildOptimizer(optimSchema.parse({ name: 'sgd', momentum: 0.5 }), {
      totalSteps: 1,
    });
    close(rounds(serverOf('fednova', {}, { optimizer }), far), [1 + mean / 2, 2 + mean / 2, 3]);
  });

  it('scaffold moves its variate by the clients that took part, as a share of all', () => {
    const server = serverOf('scaffold');
    const before = { own: Float32Array.of(1, 1, 1) };
    const kept = { own: Float32Array.of(2, 3, 4) };
    close(
      rounds(server, [
        { update: [1, 1, 1], kept, before },
        { update: [0, 0, 0], kept },
      ]),
      [1.5, 2.5, 3.5],
    );
    close([...(server.vectors?.variate ?? [])], [(1 + 2) / 10, (2 + 3) / 10, (3 + 4) / 10]);
    expect(server.round?.().server).toBe(server.vectors?.variate);
  });

  it('feddyn subtracts what it remembers', () => {
    const server = serverOf('feddyn', { alpha: 0.5 });
    // h = -0.5 * (1 + 3) / 10 = -0.2; w = 1 + 2 + 0.4.
    close(rounds(server, [{ update: [1, 0, 0] }, { update: [3, 0, 0] }]), [3.4, 2, 3]);
  });

  it('change nothing when nobody answered', () => {
    for (const name of federatedStrategies().keys()) {
      const server = serverOf(name);
      const params = Float32Array.of(1, 2, 3);
      const nobody = { round: 0, sum: null, weight: 0, updates: [], reports: [], kept: () => null };
      server.apply(nobody, params, new Float32Array(0));
      expect([...params]).toEqual([1, 2, 3]);
    }
  });
});

describe('robust strategies', () => {
  const honest = [0.9, 1, 1.1, 1.05, 0.95, 1.02, 0.98, 1.01].map((x): Answer => ({ update: [x, 2 * x, -x] }));
  const liars: Answer[] = [{ update: [-50, -80, 90] }, { update: [-60, -70, 100] }];

  it.each(['fedmedian', 'fedtrimmedavg', 'krum', 'multikrum', 'bulyan', 'rfa'])(
    '%s stays with the honest where averaging does not',
    (name) => {
      const settings =
        { fedtrimmedavg: { trim: 0.2 }, krum: { malicious: 2 }, multikrum: { malicious: 2 }, bulyan: { malicious: 2 } }[
          name
        ] ?? {};
      const moved = rounds(serverOf(name, settings), [...honest, ...liars]).map((value, i) => value - [1, 2, 3][i]!);
      close(
        moved.map((value, i) => Math.round((value / [1, 2, -1][i]!) * 5) / 5),
        [1, 1, 1],
      );
      expect(rounds(serverOf('fedavg'), [...honest, ...liars])[0]).toBeLessThan(-5);
    },
  );

  it('the median and the trimmed mean are those of each coordinate', () => {
    const answers = [1, 9, 4, 2].map((x): Answer => ({ update: [x, -x, 2 * x] }));
    close(rounds(serverOf('fedmedian'), answers), [1 + 3, 2 - 3, 3 + 6]);
    close(rounds(serverOf('fedtrimmedavg', { trim: 0.25 }), answers), [1 + 3, 2 - 3, 3 + 6]);
    close(rounds(serverOf('fedtrimmedavg', { trim: 0 }), answers), [1 + 4, 2 - 4, 3 + 8]);
  });

  it('need so many clients for so many liars', () => {
    const said = (name: string, malicious: number, cohort: number, clients = 100) =>
      federatedStrategies()
        .get(name)
        ?.refused?.({ malicious } as never, { cohort, clients })?.message ?? null;
    for (const [name, times] of [
      ['krum', 2],
      ['multikrum', 2],
      ['bulyan', 4],
    ] as const)
      for (const f of [0, 1, 2, 5]) {
        const needed = times * f + 3;
        expect(said(name, f, needed)).toBeNull();
        expect(said(name, f, needed - 1)).toMatch(`scheduler.malicious ${f}: ${name} `);
        expect(said(name, f, needed - 1)).toMatch(`raise scheduler.cohort to ${needed}`);
        expect(said(name, f, needed, needed - 1)).toMatch(`have ${needed} clients or more`);
      }
    expect(said('krum', 2, 6)).toMatch(/2 f \+ 3.*lower scheduler.malicious to 1$/);
    expect(said('bulyan', 2, 10)).toMatch(/4 f \+ 3.*lower scheduler.malicious to 1$/);
    expect(said('krum', 0, 2)).not.toMatch(/lower/);
    expect(said('fedavg', 2, 1)).toBeNull();
    for (const name of ['krum', 'multikrum', 'bulyan']) {
      const defaults = federatedStrategies().get(name)?.config.parse({});
      expect(said(name, Number(defaults?.malicious), 10)).toBeNull();
    }
  });

  it('say of each round how many liars its answers stand up to, and nothing of one that was not applied', () => {
    const withstood = (name: string, settings: object, answers: number) => {
      const server = serverOf(name, settings);
      expect(server.metrics?.()).toEqual({});
      rounds(
        server,
        Array.from({ length: answers }, (_, k) => ({ update: [k, 1, 1] })),
      );
      const said = server.metrics?.();
      expect(server.metrics?.()).toEqual({});
      return said?.liars_withstood;
    };
    expect([7, 6, 5, 3, 2].map((n) => withstood('krum', { malicious: 2 }, n))).toEqual([2, 1, 1, 0, 0]);
    expect([20, 5].map((n) => withstood('multikrum', { malicious: 2 }, n))).toEqual([2, 1]);
    expect([11, 10, 7, 6].map((n) => withstood('bulyan', { malicious: 2 }, n))).toEqual([2, 1, 1, 0]);
    expect([10, 5, 4].map((n) => withstood('fedtrimmedavg', { trim: 0.2 }, n))).toEqual([2, 1, 0]);
    expect(withstood('fedmedian', {}, 5)).toBeUndefined();
  });

  it('rfa is where the weighted sum of distances is least', () => {
    const vector = fc.array(fc.float({ noNaN: true, min: -10, max: 10 }), { minLength: 3, maxLength: 3 });
    const given = fc.array(fc.tuple(vector, fc.integer({ min: 1, max: 9 })), { minLength: 3, maxLength: 7 });
    fc.assert(
      fc.property(given, (list) => {
        const server = serverOf('rfa', { iterations: 300 });
        const moved = rounds(
          server,
          list.map(([update, examples]): Answer => ({ update, examples })),
        ).map((value, i) => value - ([1, 2, 3][i] as number));
        const cost = (at: readonly number[]) =>
          list.reduce(
            (sum, [update, examples]) => sum + examples * Math.hypot(...at.map((v, i) => v - (update[i] as number))),
            0,
          );
        const least = cost(moved);
        const around = [0, 1, 2].flatMap((axis) =>
          [-0.5, -0.05, 0.05, 0.5].map((by) => moved.map((v, i) => (i === axis ? v + by : v))),
        );
        for (const at of [...around, ...list.map(([update]) => update)])
          expect(least).toBeLessThanOrEqual(cost(at) * (1 + 1e-4) + 1e-4);
      }),
      { seed: 5, numRuns: 60 },
    );
  });

  it('Krum scores are sums over the closest neighbours', () => {
    const vector = fc.array(fc.float({ noNaN: true, min: -10, max: 10 }), { minLength: 2, maxLength: 2 });
    fc.assert(
      fc.property(fc.array(vector, { minLength: 4, maxLength: 9 }), fc.integer({ min: 0, max: 2 }), (list, f) => {
        const updates = list.map((values) => Float32Array.from(values));
        const score = (a: number) =>
          updates
            .flatMap((other, b) => (a === b ? [] : [other.reduce((s, x, i) => s + (x - updates[a]![i]!) ** 2, 0)]))
            .sort((x, y) => x - y)
            .slice(0, Math.max(1, updates.length - f - 2))
            .reduce((s, x) => s + x, 0);
        const order = krumOrder(updates, f);
        const scores = order.map(score);
        for (let i = 1; i < scores.length; i++)
          expect(scores[i]! - scores[i - 1]!).toBeGreaterThanOrEqual(-1e-9 * Math.abs(scores[i]!));
      }),
      { numRuns: 100 },
    );
  });

  it('rfa minimises the sum of distances', () => {
    const points = [
      [0, 0, 0],
      [4, 0, 0],
      [0, 3, 0],
      [1, 1, 1],
      [9, 9, 9],
    ];
    const found = rounds(
      serverOf('rfa', { iterations: 200 }),
      points.map((update) => ({ update })),
    );
    const centre = found.map((value, i) => value - [1, 2, 3][i]!);
    const cost = (at: readonly number[]) =>
      points.reduce((sum, point) => sum + Math.hypot(...point.map((x, i) => x - at[i]!)), 0);
    for (const step of [-0.05, 0.05])
      for (let i = 0; i < size; i++)
        expect(cost(centre)).toBeLessThanOrEqual(cost(centre.map((x, j) => (i === j ? x + step : x))) + 1e-6);
  });

  it('normclip cuts what is too long', () => {
    close(rounds(serverOf('normclip', { clip_norm: 1 }), [{ update: [3, 4, 0] }, { update: [0, 0, 0.5] }]), [
      1 + 0.3,
      2 + 0.4,
      3 + 0.25,
    ]);
  });
});
