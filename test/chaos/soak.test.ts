import { expect, it } from 'vitest';
import { differing } from './cluster.ts';
import { soak } from './soak.ts';

it('a minute with a random fault every few seconds: nothing lost, memory flat', async () => {
  const lines: string[] = [];
  const report = await soak({ minutes: 1, faultEveryMs: 6000, seed: 11, say: (line) => lines.push(line) });
  const tensors = differing(report.outcome, report.expected);
  expect({ ...report.outcome, tensors }, lines.join('\n')).toEqual({ ...report.expected, tensors: [] });
  expect(report.outcome.steps).toEqual(report.outcome.steps.map((_, index) => index + 1));
  expect(Object.values(report.faults).reduce((a, b) => a + b, 0)).toBeGreaterThanOrEqual(5);
  // A minute shows only a leak of a megabyte a second; `bench/cluster/soak` shows the rest.
  for (const { early, late } of report.memory) expect(late - early).toBeLessThan(80);
}, 240_000);
