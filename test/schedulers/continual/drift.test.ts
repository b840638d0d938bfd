import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type DriftFile, train } from '../../../src/index.ts';
import { DriftLog } from '../../../src/schedulers/continual/drift.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-drift-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

it('adds up how far numbers move after a task has changed, apart from how far they move while it stays', () => {
  const of = (a: number, b: number, c: number) => ({
    'one.w': Float32Array.of(a, b),
    'one.b': Float32Array.of(c),
    'two.w': Float32Array.of(1),
  });
  const log = new DriftLog();
  log.begin(of(9, 9, 9));
  log.end(0, 'between', of(1, -2, 1));
  log.end(0, 'within', of(2, -2, 1));
  log.end(1, 'between', of(2, 4, -1));
  log.end(1, 'within', of(2, 4, 1));
  // Nothing comes before the first task, so what the model learns there is no change of the task.
  expect(log.modules()).toEqual([
    { module: 'one', parameters: 3, between: 8 / 3, within: (1 + 2) / 6, relative: 8 / 5 },
    { module: 'two', parameters: 1, between: 0, within: 0, relative: 0 },
  ]);
});

it('drift.json is the same on every mesh, also where the state of the optimizer is sharded', {
  timeout: 60_000,
}, async () => {
  const table = join(root, 'classes.csv');
  writeClasses(table);
  const driftOf = async (name: string, parallel: object): Promise<DriftFile> => {
    const dir = join(root, name);
    const config = {
      model: { name: 'mlp', args: { hidden: [8, 8] } },
      data: { name: 'csv', path: table, label: 'label', validation: 0.2 },
      optim: { name: 'adamw', lr: 0.01 },
      batch: { global: 8, micro: 4 },
      scheduler: { name: 'continual', scenario: { stream: { name: 'split', tasks: 2 } } },
      run: { dir },
      parallel,
    };
    for await (const _ of train(config));
    return JSON.parse(readFileSync(join(dir, readdirSync(dir)[0] as string, 'drift.json'), 'utf8')) as DriftFile;
  };
  const serial = await driftOf('serial', {});
  expect(serial.tasks).toBe(2);
  expect(serial.modules).toHaveLength(3);
  for (const { between, within, relative } of serial.modules)
    for (const value of [between, within, relative]) expect(value).toBeGreaterThan(0);
  expect(await driftOf('data', { data: 2 })).toEqual(serial);
  expect(await driftOf('pipeline', { pipeline: 2 })).toEqual(serial);
});
