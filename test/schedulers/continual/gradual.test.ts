import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { complete, type RunSummary, resolveConfig, train } from '../../../src/index.ts';
import type { Seen } from '../../../src/schedulers/continual/index.ts';
import { mixNeighbours } from '../../../src/schedulers/continual/index.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-gradual-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table);

async function run(strategy: object, scenario: object, config: object = {}): Promise<RunSummary> {
  const { summary } = await complete(
    train(
      resolveConfig({
        run: { dir: root },
        model: { name: 'mlp', args: { hidden: [8] } },
        data: { name: 'csv', path: table, label: 'label', validation: 0.2 },
        optim: { name: 'sgd', lr: 0.5, momentum: 0, clip_norm: null },
        batch: { global: 8, micro: 4 },
        ...config,
        scheduler: { name: 'continual', scenario: { stream: { name: 'split', tasks: 2 }, ...scenario }, strategy },
      }),
    ),
  );
  return summary as RunSummary;
}

describe('tasks that change gradually', () => {
  const task = (index: number, length: number): Seen[] =>
    Array.from({ length }, (_, i) => ({ example: 1000 * index + i, task: index }));

  it('mix with their neighbours, evenly more and more, and lose nothing', () => {
    const sharp = [task(0, 400), task(1, 600), task(2, 200)];
    const mixed = mixNeighbours(sharp, 0.5);
    expect(mixed.map(({ length }) => length)).toEqual([400, 600, 200]);
    const all = mixed.flat();
    expect(all.map(({ example }) => example).sort((a, b) => a - b)).toEqual(sharp.flat().map(({ example }) => example));
    // Each task's own order stays.
    for (const index of [0, 1, 2]) expect(all.filter((seen) => seen.task === index)).toEqual(sharp[index]);
    const shareOf = (index: number, from: number, to: number) =>
      all.slice(from, to).filter((seen) => seen.task === index).length / (to - from);
    expect(shareOf(0, 0, 300)).toBe(1);
    expect(shareOf(1, 550, 850)).toBe(1);
    const ramp = [300, 350, 400, 475].map((from, i, at) => shareOf(1, from, at[i + 1] ?? 550));
    expect(ramp).toEqual([...ramp].sort((a, b) => a - b));
    expect(ramp[0]).toBeLessThan(0.25);
    expect(ramp[3]).toBeGreaterThan(0.75);
  });

  it('of share 0 are sharp', () => {
    const sharp = [task(0, 5), task(1, 5)];
    expect(mixNeighbours(sharp, 0)).toEqual(sharp);
  });

  it.each([{ name: 'er' }, { name: 'der++' }])('$name runs on them, the same on two workers', async (strategy) => {
    const summary = await run(strategy, { gradual: 1 });
    const sharp = await run(strategy, {});
    const sharded = await run(strategy, { gradual: 1 }, { parallel: { data: 2 } });
    expect(sharded.accuracy_matrix).toEqual(summary.accuracy_matrix);
    expect(sharded.weights_sha256).toBe(summary.weights_sha256);
    expect(sharp.weights_sha256).not.toBe(summary.weights_sha256);
    expect(sharp.steps).toBe(summary.steps);
    // What comes next is begun to be learnt before it has come.
    expect(summary.accuracy_matrix?.[0]?.[1]).toBeGreaterThan(0);
    expect(sharp.accuracy_matrix?.[0]?.[1]).toBe(0);
  });

  it('are refused where somebody must know when they change', async () => {
    await expect(run({ name: 'ewc' }, { gradual: 0.5 })).rejects.toThrow(
      /strategy ewc must know when tasks change.* naive, .*er, /,
    );
    await expect(run({ name: 'er' }, { name: 'task-incremental', gradual: 0.5 })).rejects.toThrow(
      /where the task is known its boundaries are/,
    );
  });
});
