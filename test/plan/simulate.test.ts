import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatPlan,
  formatTimeline,
  modelCosts,
  planReport,
  type ScheduleName,
  simulate,
  uniformCosts,
  verifyPrograms,
} from '../../src/plan/index.ts';
import { layer, model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const costs = (forward: number, backwardInput: number, backwardWeight: number) =>
  uniformCosts({ forward, backwardInput, backwardWeight });

function run(name: ScheduleName, p: number, m: number, chunks = 1, times = costs(1, 1, 1)) {
  const { programs } = plan(model(p * chunks), { pipeline: p, schedule: name, chunks }, m);
  return simulate(programs, times);
}

describe('bubbles', () => {
  it('1f1b and gpipe: (p-1)/(m+p-1), whatever forward and backward cost', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 8 }),
        fc.integer({ min: 1, max: 24 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 5 }),
        (p, m, f, b) => {
          for (const name of ['1f1b', 'gpipe'] as const) {
            const { bubble, seconds } = run(name, p, m, 1, costs(f, b, b));
            expect(seconds).toBeCloseTo((m + p - 1) * (f + 2 * b), 9);
            expect(bubble).toBeCloseTo((p - 1) / (m + p - 1), 12);
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  it('interleaved-1f1b: as many times smaller as there are chunks', () => {
    for (const [p, m, v] of [
      [2, 4, 2],
      [4, 8, 2],
      [4, 8, 3],
      [3, 6, 4],
    ] as const)
      expect(run('interleaved-1f1b', p, m, v).bubble).toBeCloseTo((p - 1) / (m * v + p - 1), 12);
  });

  it('interleaved-1f1b where the pipeline does not divide the microbatches: still below 1f1b', () => {
    for (let p = 2; p <= 5; p++)
      for (let m = p; m <= 14; m++) {
        const plain = run('1f1b', p, m, 1, costs(2, 2, 2));
        expect(run('interleaved-1f1b', p, m, 2).seconds).toBeLessThanOrEqual(plain.seconds);
      }
  });

  it('zero-bubble: (p-1)(f+i-w), a third of 1f1b for equal costs', () => {
    for (let p = 2; p <= 8; p++)
      for (const m of [p, p + 1, 2 * p, 3 * p, 24]) {
        if (m < p) continue;
        const { seconds, bubble } = run('zero-bubble', p, m);
        const plain = run('1f1b', p, m);
        expect(seconds).toBeCloseTo(3 * m + (p - 1), 9);
        expect(seconds - 3 * m).toBeCloseTo((plain.seconds - 3 * m) / 3, 9);
        expect(bubble).toBeLessThan(plain.bubble);
      }
  });

  it('zero-bubble is never slower than 1f1b', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 6 }),
        fc.integer({ min: 1, max: 16 }),
        fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 })),
        (p, m, [f, i, w]) => {
          expect(run('zero-bubble', p, m, 1, costs(f, i, w)).seconds).toBeLessThanOrEqual(
            run('1f1b', p, m, 1, costs(f, i, w)).seconds + 1e-9,
          );
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('memory', () => {
  it('1f1b holds pipeline - rank microbatches, gpipe all of them, zero-bubble no more than 1f1b on its first rank', () => {
    const peaks = (name: ScheduleName) => run(name, 4, 12).ranks.map((rank) => rank.peakMicrobatches);
    expect(peaks('1f1b')).toEqual([4, 3, 2, 1]);
    expect(peaks('gpipe')).toEqual([12, 12, 12, 12]);
    expect(Math.max(...peaks('zero-bubble'))).toBe(4);
  });

  it('is counted in bytes of residuals, experts included', () => {
    const made = plan({ layers: [layer('a'), layer('b', { experts: 2 }), layer('c')] }, { pipeline: 3 }, 8);
    const { ranks } = simulate(made.programs, modelCosts(made));
    // Rank 1: two microbatches of 1000 bytes, and 16 rows of 48 bytes in experts.
    expect(ranks.map((rank) => rank.peakActivationBytes)).toEqual([3000, 2 * (1000 + 16 * 48), 1000]);
  });
});

describe('time', () => {
  it('messages take latency and bandwidth, one after another on a link', () => {
    const { programs } = plan(model(2), { pipeline: 2, schedule: 'gpipe' }, 2);
    const { seconds } = simulate(
      programs,
      uniformCosts({
        forward: 1,
        backwardInput: 1,
        backwardWeight: 0,
        bytesPerMessage: 30,
        bytesPerSecond: 10,
        latencySeconds: 0.5,
      }),
    );
    // Two forwards; the second message leaves at 1 + 3 + 3 and arrives at 7.5; forward, two backwards; the second gradient
    // leaves when the first has gone, at 9.5 + 3 + 3, and arrives at 16; the last backward ends at 17. Then come the norms.
    expect(seconds).toBeCloseTo(17.5, 9);
  });

  it('is at least that of the busiest rank, and grows with latency', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 3 }), fc.nat(8), (p, data, more) => {
        const made = plan(model(p), { pipeline: p, data }, data + more);
        const times = modelCosts(made);
        const { seconds, ranks } = simulate(made.programs, times);
        for (const rank of ranks) expect(rank.busy).toBeLessThanOrEqual(seconds + 1e-12);
        const slow = simulate(made.programs, { ...times, latencySeconds: 1 });
        expect(slow.seconds).toBeGreaterThanOrEqual(seconds);
      }),
      { numRuns: 30 },
    );
  });

  it('ten thousand ranks take seconds', () => {
    const began = performance.now();
    const made = plan(model(100), { pipeline: 100, data: 100 }, 800);
    const { bubble } = simulate(made.programs, costs(1, 1, 1));
    expect(made.programs).toHaveLength(10_000);
    expect(bubble).toBeCloseTo(99 / (8 + 99), 9);
    expect(verifyPrograms(made.programs, { credit: 1 }).credit).toBe(1);
    expect(performance.now() - began).toBeLessThan(30_000);
  });
});

describe('what is printed', () => {
  const summary = {
    layers: [layer('embed'), layer('blocks.0', { experts: 4 }), layer('blocks.1', { experts: 4 }), layer('head')],
  };

  it('a timeline', () => {
    const { programs } = plan(model(2), { pipeline: 2, schedule: 'zero-bubble' }, 3);
    const simulation = simulate(programs, costs(1, 1, 1), { timeline: true });
    expect(formatTimeline(simulation, { columns: 30 })).toBe(
      ['rank 0 │0░░1░░---0▓▓0▒▒2░░1▓▓1▒▒2▓▓2▒▒│', 'rank 1 │---0░░0▓▓1░░1▓▓0▒▒2░░2▓▓1▒▒2▒▒│'].join('\n'),
    );
  });

  it('a report that adds up', () => {
    const made = plan(summary, { pipeline: 2, data: 2, expert: 2, zero: 0 }, 4);
    const report = planReport(made);
    expect(report.stages.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 12);
    expect(report.bytes).toBe(report.ranks.reduce((sum, { bytes }) => sum + bytes, 0));
    const [rank] = report.ranks;
    // Two dense parameters, and two of four experts of one call.
    expect(rank).toMatchObject({
      paramBytes: 2 * 64 + 2 * 128,
      optimizerBytes: 2 * (2 * 64 + 2 * 128),
      microbatches: 2,
    });
    expect(report.simulation.bubble).toBeGreaterThanOrEqual(report.bubble);
  });

  it('with sharded state: each rank keeps its part, together all of it, and as much crosses as without', () => {
    const parallel = { pipeline: 2, data: 4, expert: 2 } as const;
    const whole = planReport(plan(summary, { ...parallel, zero: 0 }, 4));
    const sharded = planReport(plan(summary, { ...parallel, zero: 1 }, 4));
    const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
    // Every optimizer byte once: dense ones were on 4 ranks, each expert's on 2.
    const params = summary.layers.flatMap((l) => [
      ...l.params,
      ...l.expertCalls.flatMap((call) => call.experts.flat()),
    ]);
    expect(sum(sharded.ranks.map((rank) => rank.optimizerBytes))).toBe(sum(params.map((p) => p.optimizerBytes)));
    for (const [i, rank] of sharded.ranks.entries()) {
      expect(rank.paramBytes).toBe(whole.ranks[i]?.paramBytes);
      expect(rank.optimizerBytes).toBeLessThan(whole.ranks[i]?.optimizerBytes as number);
    }
    const norms = 4 * params.length * 4 * 8;
    expect(Math.abs(sharded.bytes - whole.bytes)).toBeLessThan(norms);
    expect(formatPlan(plan(summary, { ...parallel, zero: 1 }, 4))).toContain('state sharded over 4 data ranks');
  });

  it('a plan', () => {
    const text = formatPlan(plan(summary, { pipeline: 2, data: 2, expert: 2, chunks: 2 }, 4));
    for (const part of [
      'data 2 × pipeline 2, expert 2: 4 ranks',
      '8 examples a step = 4 microbatches of 2',
      'embed blocks.0',
      'rank 3 │',
      'warning: parallel.chunks 2 has no effect',
      'idle',
    ])
      expect(text).toContain(part);
  });

  it('large plans show one replica', () => {
    const text = formatPlan(plan(model(4), { pipeline: 4, data: 50 }, 100));
    expect(text).toContain('of 200 ranks; the others are replicas');
    expect(text.split('\n').length).toBeLessThan(45);
  });
});
