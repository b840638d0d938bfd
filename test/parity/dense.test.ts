import { describe, expect, it } from 'vitest';
import { describeCell, run, serial } from './run.ts';
import { cellsOf, variants } from './variants.ts';

describe.each(['dense', 'dense, clipping, dropout'] as const)('%s: the bits of one worker', (variant) => {
  it('which learns', async () => {
    const { losses } = await serial(variant, variants[variant]);
    expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 0.5);
  });

  it.each(cellsOf(variant).map((parallel) => [describeCell(parallel), parallel] as const))(
    '%s',
    async (_, parallel) => {
      const { sha256 } = await run({ ...variants[variant], parallel });
      expect(sha256).toBe((await serial(variant, variants[variant])).sha256);
    },
  );
});
