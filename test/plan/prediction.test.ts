import { describe, expect, it } from 'vitest';
import { largestPrediction, type ModelSummary, predictionMicrobatch } from '../../src/plan/index.ts';

const summary = (residualBytes: number, experts = false): ModelSummary => ({
  layers: [
    {
      name: 'a',
      params: [],
      expertCalls: experts
        ? [{ path: 'a', experts: [], rows: 4, width: 4, flopsPerRow: 1, residualBytesPerRow: 1 }]
        : [],
      forwardFlops: 1,
      backwardFlops: 2,
      backwardWeightFlops: 1,
      outputs: [],
      residualBytes,
      stateBytes: 0,
    },
  ],
});

describe('microbatches of predictions', () => {
  it('are multiples of those of training, bounded by examples and by memory', () => {
    expect(largestPrediction(summary(1000), 10)).toBe(510);
    expect(largestPrediction(summary(1000), 128)).toBe(512);
    expect(largestPrediction(summary(1000), 1000)).toBe(1000);
    // A megabyte an example.
    expect(largestPrediction(summary(8 * 2 ** 20), 8)).toBe(32);
    expect(largestPrediction(summary(8 * 2 ** 30), 8)).toBe(8);
  });

  it('are those of training where experts see what else is in one', () => {
    expect(largestPrediction(summary(1000, true), 10)).toBe(10);
  });

  it('come in few sizes, none much larger than what is asked for', () => {
    expect([1, 10, 11, 300, 320, 321, 5000].map((examples) => predictionMicrobatch(examples, 10, 510))).toEqual([
      10, 10, 20, 320, 320, 510, 510,
    ]);
  });
});
