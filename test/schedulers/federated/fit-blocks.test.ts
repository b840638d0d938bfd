import { describe, expect, test } from 'vitest';
import { maximalNodes } from '../../../src/comm/index.ts';
import { taskSizes } from '../../../src/schedulers/federated/fit-blocks.ts';

describe('how a cohort is cut into tasks', () => {
  test.each([1, 2, 3, 8])('each task is a node of the canonical tree, with %i threads', (threads) => {
    for (let cohort = 0; cohort <= 200; cohort++) {
      let at = 0;
      for (const size of taskSizes(cohort, threads)) {
        expect(maximalNodes({ start: at, end: at + size }, cohort)).toEqual([{ start: at, end: at + size }]);
        at += size;
      }
      expect(at).toBe(cohort);
    }
  });

  test('large tasks first, single clients last where there are several threads', () => {
    expect(taskSizes(100, 2)).toEqual([32, 32, 8, 8, 4, 4, 4, 4, 1, 1, 1, 1]);
    expect(taskSizes(40, 1)).toEqual([32, 8]);
    expect(taskSizes(4, 4)).toEqual([1, 1, 1, 1]);
  });
});
