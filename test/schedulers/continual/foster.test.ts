import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { CheckpointReader, newestCheckpoint } from '../../../src/coordinator/run/index.ts';
import { train } from '../../../src/index.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-foster-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table, { rows: 480 });

async function run(
  strategy: { readonly name: string; readonly [key: string]: unknown },
  scenario = 'class-incremental',
) {
  const dir = join(root, strategy.name);
  const config = {
    model: { name: 'mlp', args: { hidden: [16, 16] } },
    data: { name: 'csv', path: table, label: 'label', validation: 0.25 },
    optim: { name: 'sgd', lr: 0.05, momentum: 0.9, clip_norm: null },
    batch: { global: 8, micro: 8 },
    train: { checkpoint_every: 100, keep_last: 10 },
    scheduler: {
      name: 'continual',
      epochs: 3,
      scenario: { name: scenario, stream: { name: 'split', tasks: 2 } },
      strategy,
    },
    run: { dir },
  };
  for await (const _ of train(config));
  const folder = join(dir, readdirSync(dir)[0] as string);
  const paramsAt = async (step: number) => {
    const { path, index } = await newestCheckpoint(join(folder, 'checkpoints'), step);
    const reader = await CheckpointReader.open(path, index);
    const params: Record<string, unknown> = {};
    for (const param of reader.params()) params[param] = (await reader.read(`param/${param}`)).data;
    await reader.close();
    return params;
  };
  const summary = JSON.parse(readFileSync(join(folder, 'summary.json'), 'utf8'));
  return { paramsAt, steps: summary.steps as number, accuracy: summary.average_accuracy as number };
}

it('a new branch is boosted while the old model stays, then both are one; less is forgotten', async () => {
  const foster = await run({ name: 'foster', buffer: 40 });
  // 180 examples three times: 68 steps; then twice as many with half of each batch from the buffer, and 45 to compress.
  expect(foster.steps).toBe(68 + 135 + 45);
  const [learnt, boosting, compressed] = [
    await foster.paramsAt(68),
    await foster.paramsAt(200),
    await foster.paramsAt(248),
  ];
  const grown = (path: string): boolean => /\.(grown|boosting|auxiliary)\./.test(path);
  const moved = (before: Record<string, unknown>, after: Record<string, unknown>) =>
    Object.keys(before).filter((path) =>
      (before[path] as Float32Array).some((value, i) => value !== (after[path] as Float32Array)[i]),
    );
  expect(moved(learnt, boosting).sort()).toEqual(Object.keys(learnt).filter(grown).sort());
  expect(moved(boosting, compressed).some(grown)).toBe(true);
  expect(moved(boosting, compressed).some((path) => !grown(path))).toBe(true);
  const naive = await run({ name: 'naive' });
  expect(foster.accuracy).toBeGreaterThan(naive.accuracy + 0.2);
});

it('foster refuses tasks that share their outputs, or are known', async () => {
  for (const scenario of ['domain-incremental', 'task-incremental'])
    await expect(run({ name: 'foster', buffer: 40 }, scenario)).rejects.toThrow(/class-incremental/);
});
