import { describe, expect, it } from 'vitest';
import { smallRuns } from './run.ts';

const run = smallRuns({ rows: 400 });

const adam = { optim: { name: 'adam', lr: 0.01 } };
const scheduler = { epochs: 15, scenario: { stream: { name: 'split', tasks: 2 } } };
const strategy = { name: 'generative-replay', samples: 200, hidden: 32, latent: 4 };

describe('generative replay', () => {
  it('draws examples like those of the task before, and so knows its classes still', async () => {
    const replayed = await run({ ...scheduler, strategy }, adam);
    const naive = await run({ ...scheduler, strategy: { name: 'naive' } }, adam);
    expect(naive.last[0]).toBeLessThan(0.1);
    expect(Math.min(...replayed.last)).toBeGreaterThan(0.6);
    // Numbers are 1.5 for their class and 0 for others, then standardised over all: for the first two classes 0.4 and -0.4 in the mean.
    const made = await replayed.tensor('scheduler/made');
    const column = (d: number) => Array.from({ length: 200 }, (_, row) => made[row * 4 + d] as number);
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const means = [0, 1, 2, 3].map((d) => mean(column(d)));
    for (const [d, value] of [0.4, 0.4, -0.4, -0.4].entries())
      expect(Math.abs((means[d] as number) - value)).toBeLessThan(0.25);
    // Both classes are drawn, not what lies between them.
    const [first, second] = [column(0), column(1)] as [number[], number[]];
    expect(
      mean(first.map((value, i) => (value - (means[0] as number)) * ((second[i] as number) - (means[1] as number)))),
    ).toBeLessThan(-0.15);
  });

  it('refuses more latent numbers than an input has', async () => {
    await expect(run({ ...scheduler, strategy: { ...strategy, latent: 5 } })).rejects.toThrow(/set it to 4 at most/);
  });
});
