import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ClientReport, fedmoe, type RoundOutcome, sentExperts } from '../../../src/schedulers/federated/index.ts';
import { vectorLayout } from '../../../src/schedulers/local/index.ts';

const experts = 3;
const params = vectorLayout(
  [
    'embed.weight',
    ...Array.from({ length: experts }, (_, e) => `blocks.0.moe.experts.${e}.up`),
    'blocks.0.moe.router.weight',
  ].map((path, i) => ({ path, spec: { shape: [i === 0 ? 3 : 2] } })),
);
const state = vectorLayout([
  { path: 'blocks.0.moe.routed', spec: { shape: [experts] } },
  { path: 'blocks.0.norm.mean', spec: { shape: [1] } },
]);
const shape = { params, state, clients: 9, seed: 1 };

interface Answer {
  readonly values: readonly number[];
  readonly rows: readonly number[];
  readonly examples: number;
}

function outcomeOf(answers: readonly Answer[]): RoundOutcome {
  const updates = answers.map(({ values, rows, examples }, client) => ({
    update: Float32Array.from([...values, ...rows, 0.5 * client]),
    report: {
      client,
      examples,
      steps: 1,
      weight: examples,
      loss: 1,
      norm: 1,
      kept: {},
      ms: 1,
      problem: null,
    } as ClientReport,
  }));
  const reports = updates.map(({ report }) => report);
  return { round: 0, sum: null, weight: 1, updates, reports, kept: () => null };
}

describe('the server of federated mixtures of experts', () => {
  const answer = fc.record({
    values: fc.array(fc.integer({ min: -9, max: 9 }), { minLength: params.size, maxLength: params.size }),
    rows: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: experts, maxLength: experts }),
    examples: fc.integer({ min: 1, max: 20 }),
  });

  it('averages each expert over those who trained it, by rows, and the rest by examples', () => {
    fc.assert(
      fc.property(
        fc.array(answer, { minLength: 1, maxLength: 5 }),
        fc.option(fc.integer({ min: 1, max: 3 })),
        (answers, most) => {
          const server = fedmoe.server(fedmoe.config.parse({ max_experts: most }), shape);
          const vector = Float32Array.from({ length: params.size }, (_, i) => i);
          const moduleState = new Float32Array(state.size);
          server.apply(outcomeOf(answers), vector, moduleState);
          let numbers = 0;
          const sent = answers.map(({ rows }) => sentExperts(rows, most));
          for (const place of params.places) {
            const expert = /experts\.(\d)/.exec(place.path)?.[1];
            const senders = answers.filter((_, k) => expert === undefined || sent[k]?.includes(Number(expert)));
            const weights = senders.map(({ rows, examples }) =>
              expert === undefined ? examples : (rows[Number(expert)] as number),
            );
            const total = weights.reduce((a, b) => a + b, 0);
            numbers += senders.length * place.size;
            for (let i = place.offset; i < place.offset + place.size; i++) {
              const sum = senders.reduce(
                (all, { values }, k) => all + (values[i] as number) * (weights[k] as number),
                0,
              );
              expect(vector[i]).toBeCloseTo(total === 0 ? i : i + sum / total, 4);
            }
          }
          // Rows are counted anew; other module state is averaged.
          expect([...moduleState.slice(0, experts)]).toEqual([0, 0, 0]);
          const reports = outcomeOf(answers).reports;
          expect(server.traffic?.(7, reports)).toEqual({
            down: 4 * 7 * (params.size + state.size),
            up: 4 * (numbers + answers.length * state.size),
          });
        },
      ),
      { seed: 1, numRuns: 100 },
    );
  });

  it('lets clients send the experts that most of their rows went to', () => {
    expect(sentExperts([4, 0, 9, 4], null)).toEqual([0, 2, 3]);
    expect(sentExperts([4, 0, 9, 4], 2)).toEqual([0, 2]);
  });

  it('says what does not fit', () => {
    const settings = fedmoe.config.parse({});
    expect(fedmoe.unsuited?.(settings, shape)).toBeNull();
    expect(fedmoe.unsuited?.(settings, { ...shape, state: vectorLayout([]) })).toMatch(/count: true/);
    const plain = { ...shape, params: vectorLayout([{ path: 'w', spec: { shape: [3] } }]) };
    expect(fedmoe.unsuited?.(settings, plain)).toMatch(/mixtures of experts/);
  });
});
