import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { CheckpointReader, newestCheckpoint } from '../../../src/coordinator/run/index.ts';
import { type DriftFile, train } from '../../../src/index.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-fpf-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table, { rows: 480 });

/** What a run comes to: its parameters by path, its accuracy on all classes, how its modules drifted. */
async function run(name: string, strategy: object, optim: object, drift = true) {
  const dir = join(root, name);
  const config = {
    model: { name: 'mlp', args: { hidden: [16, 16] } },
    data: { name: 'csv', path: table, label: 'label', validation: 0.25 },
    optim,
    batch: { global: 8, micro: 8 },
    scheduler: { name: 'continual', drift, epochs: 3, scenario: { stream: { name: 'split', tasks: 2 } }, strategy },
    run: { dir },
  };
  for await (const _ of train(config));
  const folder = join(dir, readdirSync(dir)[0] as string);
  const { path, index } = await newestCheckpoint(join(folder, 'checkpoints'));
  const reader = await CheckpointReader.open(path, index);
  const params: Record<string, unknown> = {};
  for (const param of reader.params()) params[param] = (await reader.read(`param/${param}`)).data;
  await reader.close();
  const json = (file: string) => JSON.parse(readFileSync(join(folder, file), 'utf8'));
  return { params, accuracy: json('summary.json').average_accuracy as number, drift: json('drift.json') as DriftFile };
}

it.each([
  ['sgd', { name: 'sgd', lr: 0.05, momentum: 0.9, clip_norm: null }],
  ['adamw', { name: 'adamw', lr: 0.01, weight_decay: 0.1 }],
])(
  'fpf tunes the module that changed most, leaves the others to the bit, and undoes forgetting (%s)',
  async (name, optim) => {
    const plain = await run(`${name}-plain`, { name: 'naive' }, optim);
    const tuned = await run(`${name}-tuned`, { name: 'fpf', base: { name: 'naive' }, buffer: 40, share: 0.3 }, optim);
    // All that is measured is from before the tuning, so both see the same drift.
    expect(tuned.drift).toEqual(plain.drift);
    const [most] = plain.drift.modules;
    const changed = Object.keys(plain.params).filter((path) => {
      const [before, after] = [plain.params[path], tuned.params[path]] as [Float32Array, Float32Array];
      return before.some((value, i) => value !== after[i]);
    });
    expect(changed.sort()).toEqual([`${most?.module}.bias`, `${most?.module}.weight`]);
    expect(plain.accuracy).toBeLessThan(0.6);
    expect(tuned.accuracy).toBeGreaterThan(plain.accuracy + 0.15);
  },
);

it('k-fpf does without replay in every step, and goes on with all modules in between', async () => {
  const optim = { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null };
  const k = await run('k', { name: 'k-fpf', buffer: 40, times: 3, tuning_epochs: 5, share: 0.67 }, optim);
  const plain = await run('k-plain', { name: 'naive' }, optim);
  expect(k.accuracy).toBeGreaterThan(plain.accuracy + 0.15);
  for (const [path, values] of Object.entries(plain.params)) expect(k.params[path]).not.toEqual(values);
});

it('fpf refuses a run that does not look at drift, before anything is trained', async () => {
  const optim = { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null };
  await expect(run('blind', { name: 'k-fpf', buffer: 40 }, optim, false)).rejects.toThrow(
    /set scheduler.drift to true/,
  );
});
