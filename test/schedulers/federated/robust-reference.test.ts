import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ClientReport, federatedStrategies } from '../../../src/schedulers/federated/index.ts';
import { vectorLayout } from '../../../src/schedulers/local/index.ts';
import { close } from './plain-vectors.ts';

// Robust aggregators beside their papers' definitions, by brute force: subsets and orders are enumerated where the strategies sort. Values
// are small integers (Krum and Bulyan: distances are exact then, and so are ties) or floats.

const SIZE = 3;
type Vector = readonly number[];
interface Answer {
  readonly update: Vector;
  readonly examples: number;
}

/** What a strategy makes of the updates of a round. */
function combined(name: string, settings: object, answers: readonly Answer[]): number[] {
  const strategy = federatedStrategies().get(name);
  if (!strategy) throw new Error(`no strategy ${name}`);
  const layout = vectorLayout([{ path: 'weight', spec: { shape: [SIZE] } }]);
  const server = strategy.server(strategy.config.parse(settings), {
    params: layout,
    state: vectorLayout([]),
    clients: answers.length,
    seed: 1,
  });
  const updates = answers.map(({ update, examples }, client) => {
    const report: ClientReport = {
      ...{ client, examples, steps: 1, weight: examples, loss: 1, kept: {}, ms: 1, problem: null },
      norm: Math.hypot(...Float32Array.from(update)),
    };
    return { update: Float32Array.from(update), report };
  });
  const reports = updates.map(({ report }) => report);
  const weight = reports.reduce((sum, report) => sum + report.weight, 0);
  const params = new Float32Array(SIZE);
  server.apply({ round: 0, sum: null, weight, updates, reports, kept: () => null }, params, new Float32Array(0));
  return [...params];
}

const axes = Array.from({ length: SIZE }, (_, i) => i);
const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
const mean = (values: readonly number[]) => total(values) / values.length;
const squared = (a: Vector, b: Vector) => total(a.map((value, i) => (value - (b[i] as number)) ** 2));
const meanOf = (vectors: readonly Vector[]) => axes.map((i) => mean(vectors.map((vector) => vector[i] as number)));

/** All subsets of so many members. */
function subsets<T>(members: readonly T[], size: number): T[][] {
  if (size === 0) return [[]];
  return members.flatMap((member, i) => subsets(members.slice(i + 1), size - 1).map((rest) => [member, ...rest]));
}

/**
 * The Krum score: the sum of squared distances to the n - f - 2 closest others, which is the least over all subsets of so many. (Of one at
 * least, and of all that there are at most.)
 */
function score(all: readonly Vector[], a: number, f: number): number {
  const others = all.filter((_, b) => b !== a);
  const size = Math.min(others.length, Math.max(1, all.length - f - 2));
  return Math.min(...subsets(others, size).map((near) => total(near.map((b) => squared(all[a] as Vector, b)))));
}

/** Position of the least score, the first of equal ones. */
function krumOf(all: readonly Vector[], f: number): number {
  const scores = all.map((_, a) => score(all, a, f));
  return scores.indexOf(Math.min(...scores));
}

function median(values: readonly number[]): number {
  // The middle is what as many are above as below: by counting, not by sorting.
  const rank = (value: number) => values.filter((other) => other < value).length;
  const upTo = (value: number) => values.filter((other) => other <= value).length;
  const at = (k: number) => values.find((value) => rank(value) <= k && k < upTo(value)) as number;
  const n = values.length;
  return (at(Math.floor((n - 1) / 2)) + at(Math.floor(n / 2))) / 2;
}

const examples = fc.integer({ min: 1, max: 9 });
const answersOf = (value: fc.Arbitrary<number>, minLength: number, maxLength: number) =>
  fc.array(fc.record({ update: fc.array(value, { minLength: SIZE, maxLength: SIZE }), examples }), {
    minLength,
    maxLength,
  });
const float = fc.float({ noNaN: true, min: -10, max: 10 }).map((value) => (Math.abs(value) < 1e-6 ? 0 : value));
const integer = fc.integer({ min: -20, max: 20 });
const once = { seed: 11, numRuns: 150 };

const vectorsOf = (answers: readonly Answer[]) => answers.map(({ update }) => update);

describe('updates that most others are close to', () => {
  // At the papers' bounds, above them, and below them, where fewer have answered than were asked.
  const given = fc.tuple(answersOf(integer, 1, 9), fc.integer({ min: 0, max: 2 }));

  it('krum takes the one of the least score', () => {
    fc.assert(
      fc.property(given, ([answers, f]) => {
        const all = vectorsOf(answers);
        expect(combined('krum', { malicious: f }, answers)).toEqual(all[krumOf(all, f)]);
      }),
      once,
    );
  });

  it('multikrum takes the mean of those of the least scores', () => {
    fc.assert(
      fc.property(given, fc.option(fc.integer({ min: 1, max: 9 })), ([answers, f], keep) => {
        const all = vectorsOf(answers);
        const scores = all.map((_, a) => score(all, a, f));
        const count = Math.max(1, Math.min(all.length, keep ?? all.length - f));
        const before = (a: number) =>
          scores.filter((other, b) => other < (scores[a] as number) || (other === scores[a] && b < a)).length;
        const chosen = all.filter((_, a) => before(a) < count);
        close(combined('multikrum', { malicious: f, keep }, answers), meanOf(chosen));
      }),
      once,
    );
  });

  it('bulyan takes Krum again and again, then what is closest to the median of each coordinate', () => {
    fc.assert(
      fc.property(answersOf(integer, 3, 11), fc.integer({ min: 0, max: 2 }), (answers, f) => {
        fc.pre(answers.length >= 4 * f + 3);
        const left = vectorsOf(answers);
        const chosen: Vector[] = [];
        while (chosen.length < answers.length - 2 * f) chosen.push(...left.splice(krumOf(left, f), 1));
        const found = combined('bulyan', { malicious: f }, answers);
        for (const i of axes) {
          const values = chosen.map((vector) => vector[i] as number);
          const centre = median(values);
          const far = (near: readonly number[]) => total(near.map((value) => Math.abs(value - centre)));
          const choices = subsets(values, values.length - 2 * f);
          const least = Math.min(...choices.map(far));
          // (Values as far above the median as below it are as good as each other.)
          const means = choices.filter((near) => far(near) === least).map(mean);
          expect(Math.min(...means.map((value) => Math.abs(value - (found[i] as number))))).toBeLessThan(1e-5);
        }
      }),
      { ...once, numRuns: 100 },
    );
  });

  it('with as many liars as are allowed it stays within what the honest say', () => {
    const within = (name: string, times: number) =>
      fc.assert(
        fc.property(
          fc.integer({ min: 1, max: 2 }),
          fc.infiniteStream(
            fc.record({
              update: fc.array(fc.float({ noNaN: true, min: 0, max: 1 }), { minLength: SIZE, maxLength: SIZE }),
              examples,
            }),
          ),
          fc.array(
            fc.integer({ min: -1000, max: 1000 }).filter((v) => Math.abs(v) > 50),
            { minLength: 2 * SIZE, maxLength: 2 * SIZE },
          ),
          (f, stream, lies) => {
            const honest = [...stream.take(times * f + 3 - f)];
            const liars = Array.from({ length: f }, (_, k) => ({
              update: lies.slice(k * SIZE, (k + 1) * SIZE),
              examples: 9,
            }));
            for (const value of combined(name, { malicious: f }, [...liars, ...honest])) {
              expect(value).toBeGreaterThanOrEqual(0);
              expect(value).toBeLessThanOrEqual(1);
            }
          },
        ),
        once,
      );
    within('krum', 2);
    within('multikrum', 2);
    within('bulyan', 4);
  });
});

describe('each coordinate by itself', () => {
  it('fedmedian takes the median', () => {
    fc.assert(
      fc.property(answersOf(float, 1, 9), (answers) => {
        const expected = axes.map((i) => median(answers.map(({ update }) => update[i] as number)));
        close(combined('fedmedian', {}, answers), expected);
      }),
      once,
    );
  });

  it('fedtrimmedavg takes the largest and the smallest off, one at a time', () => {
    fc.assert(
      fc.property(answersOf(float, 1, 9), fc.constantFrom(0, 0.1, 0.2, 0.25, 0.4, 0.49), (answers, trim) => {
        const expected = axes.map((i) => {
          const values = answers.map(({ update }) => update[i] as number);
          for (let cut = 1; cut <= trim * answers.length; cut++) {
            values.splice(values.indexOf(Math.max(...values)), 1);
            values.splice(values.indexOf(Math.min(...values)), 1);
          }
          return mean(values);
        });
        close(combined('fedtrimmedavg', { trim }, answers), expected);
      }),
      once,
    );
  });
});

describe('distances and norms', () => {
  it('rfa is a fixed point: the pulls of the updates, each of its examples, cancel', () => {
    fc.assert(
      fc.property(answersOf(float, 3, 8), (answers) => {
        const found = combined('rfa', { iterations: 2000 }, answers);
        const apart = answers.map(({ update }) => Math.sqrt(squared(update, found)));
        // At an update itself its own pull is whatever the others' is, up to its examples.
        const pull = axes.map((i) =>
          total(
            answers.map(({ update, examples: n }, k) =>
              (apart[k] as number) < 1e-2
                ? 0
                : (n * ((update[i] as number) - (found[i] as number))) / (apart[k] as number),
            ),
          ),
        );
        const held = total(answers.map(({ examples: n }, k) => ((apart[k] as number) < 1e-2 ? n : 0)));
        expect(Math.hypot(...pull)).toBeLessThanOrEqual(held + 0.02 * total(answers.map(({ examples: n }) => n)));
      }),
      { ...once, numRuns: 60 },
    );
  });

  it('rfa goes by examples: one that has more than all others together is the median', () => {
    fc.assert(
      fc.property(answersOf(float, 1, 1), answersOf(float, 1, 5), ([first], others) => {
        if (!first) return;
        const most = { ...first, examples: 1 + total(others.map(({ examples: n }) => n)) * 2 };
        close(combined('rfa', { iterations: 200 }, [...others, most]), first.update, 2);
      }),
      { ...once, numRuns: 60 },
    );
  });

  it('normclip averages by examples what is at most as long as the bound, in its own direction', () => {
    fc.assert(
      fc.property(answersOf(float, 1, 8), fc.constantFrom(0.5, 1, 7, 100), (answers, clip_norm) => {
        const weights = total(answers.map(({ examples: n }) => n));
        const expected = axes.map((i) =>
          total(
            answers.map(({ update, examples: n }) => {
              const norm = Math.hypot(...update);
              return (n * (update[i] as number) * (norm > clip_norm ? clip_norm / norm : 1)) / weights;
            }),
          ),
        );
        const found = combined('normclip', { clip_norm }, answers);
        close(found, expected);
        expect(Math.hypot(...found)).toBeLessThanOrEqual(clip_norm * (1 + 1e-5));
      }),
      once,
    );
  });
});
