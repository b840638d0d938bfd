import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { CheckpointReader, newestCheckpoint } from '../../../src/coordinator/run/index.ts';
import { type RunEvent, type RunSummary, train } from '../../../src/index.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-continual-moe-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table, { rows: 480 });

async function run(name: string, experts = 6) {
  const dir = join(root, name);
  const config = {
    model: { name: 'moe-mlp', args: { dim: 16, hidden: 16, experts } },
    data: { name: 'csv', path: table, label: 'label', validation: 0.25 },
    optim: { name: 'adamw', lr: 0.01 },
    batch: { global: 8, micro: 8 },
    train: { keep_last: 10 },
    scheduler: {
      name: 'continual',
      epochs: 4,
      scenario: { name: 'task-incremental', stream: { name: 'permuted', tasks: 3 } },
      strategy: { name: 'continual-moe' },
    },
    run: { dir },
  };
  let summary: RunSummary | null = null;
  const ends: number[] = [];
  for await (const event of train(config) as AsyncIterable<RunEvent>) {
    if (event.type === 'finished') summary = event.summary;
    if (event.type === 'task') ends.push(event.step);
  }
  const folder = join(dir, readdirSync(dir)[0] as string, 'checkpoints');
  const paramsAt = async (step: number) => {
    const { path, index } = await newestCheckpoint(folder, step);
    const reader = await CheckpointReader.open(path, index);
    const params = new Map<string, Float32Array>();
    for (const param of reader.params()) params.set(param, (await reader.read(`param/${param}`)).data as Float32Array);
    await reader.close();
    return params;
  };
  const { accuracy_matrix: matrix } = summary as unknown as { accuracy_matrix: number[][] };
  return { matrix, params: await Promise.all(ends.map(paramsAt)) };
}

it('experts open task by task, those in use are frozen to the bit, and earlier tasks are kept', {
  timeout: 60_000,
}, async () => {
  const { matrix, params } = await run('grown');
  const moved = (from: number, to: number): string[] =>
    [...(params[from] as Map<string, Float32Array>)]
      .filter(([path, before]) => before.some((value, i) => value !== params[to]?.get(path)?.[i]))
      .map(([path]) => path);
  const openOf = (each: Map<string, Float32Array>) =>
    [...each].find(([path]) => path.endsWith('.router.open'))?.[1].join('');
  const expertsOf = (paths: readonly string[]) => [
    ...new Set(paths.flatMap((path) => /experts\.(\d+)\./.exec(path)?.[1] ?? [])),
  ];
  expect(params.map(openOf)).toEqual(['110000', '111100', '111111']);
  // Of the first two experts at least the busier one is frozen with the first task, and nothing is left that all pass through.
  const later = moved(0, 2);
  expect(expertsOf(later).filter((expert) => Number(expert) < 2).length).toBeLessThan(2);
  expect(expertsOf(later)).toEqual(expect.arrayContaining(['2', '4']));
  expect(later.some((path) => path.startsWith('embed.') || path.includes('.norm.'))).toBe(false);
  for (const task of [0, 1, 2]) expect(matrix[task]?.[task]).toBeGreaterThan(0.5);
  for (const task of [0, 1]) expect(matrix[2]?.[task]).toBeGreaterThan((matrix[task]?.[task] as number) - 0.05);
});

it('refuses a mixture with too few experts for the tasks', async () => {
  await expect(run('few', 2)).rejects.toThrow(/opens 0 experts with each of 3 tasks, but a mixture has 2/);
});
