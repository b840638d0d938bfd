import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type RunEvent, type RunSummary, train } from '../../../src/index.ts';
import { continualNames } from '../../../src/schedulers/continual/index.ts';
import { small } from './small.ts';
import { writeClasses } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-continual-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const table = join(root, 'classes.csv');
writeClasses(table);

const base = {
  model: { name: 'mlp', args: { hidden: [8, 8] } },
  data: { name: 'csv', path: table, label: 'label', validation: 0.2 },
  optim: { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null },
  batch: { global: 8, micro: 4 },
};

async function run(config: object, overrides: string[] = []): Promise<RunSummary> {
  let summary: RunSummary | null = null;
  for await (const event of train({ ...base, run: { dir: root }, ...config }, { overrides }) as AsyncIterable<RunEvent>)
    if (event.type === 'finished') summary = event.summary;
  if (!summary) throw new Error('the run did not finish');
  return summary;
}

/** A small run of a strategy. */
function smallOf(name: string): object {
  const { scenario, strategy, ...others } = small[name] ?? {};
  const scheduler = {
    name: 'continual',
    scenario: { stream: { name: 'split', tasks: 2 }, ...scenario },
    strategy: { name, ...strategy },
  };
  return { ...others, scheduler };
}

function expectSame(sharded: RunSummary, serial: RunSummary): void {
  expect(sharded.accuracy_matrix).toEqual(serial.accuracy_matrix);
  expect(sharded.weights_sha256).toBe(serial.weights_sha256);
  expect(sharded.losses_sha256).toBe(serial.losses_sha256);
}

describe('continual strategies', () => {
  it.each(continualNames())('%s: the same matrix on every mesh', { timeout: 120_000 }, async (name) => {
    const serial = await run(smallOf(name));
    for (const parallel of [{ data: 2 }, { pipeline: 2 }])
      expectSame(await run({ ...smallOf(name), parallel }), serial);
  });

  // One rank alone runs several such steps as one session (StepSpans); two stages take them one by one.
  it.each(['naive', 'er', 'der++', 'ewc', 'si', 'lwf'])('%s: the same with one microbatch a step', async (name) => {
    const batch = { global: 8, micro: 8 };
    const serial = await run({ ...smallOf(name), batch });
    expectSame(await run({ ...smallOf(name), batch, parallel: { pipeline: 2 } }), serial);
  });

  // Three new examples of eight: two rows of each microbatch are computed, but four where gradients are looked at.
  it.each(['a-gem', 'gem'])('%s: the same with training steps that are shorter than batches', async (name) => {
    const config = smallOf(name) as { readonly scheduler: { readonly strategy: object } };
    const { scheduler } = config;
    const short = { ...config, scheduler: { ...scheduler, strategy: { ...scheduler.strategy, fresh: 3 } } };
    const serial = await run(short);
    for (const parallel of [{ data: 2 }, { pipeline: 2 }]) expectSame(await run({ ...short, parallel }), serial);
  });

  it('computes only the new examples of a training step: the bits of a batch of just these', async () => {
    const scheduler = (strategy: object) => ({
      scheduler: { name: 'continual', scenario: { stream: { name: 'split', tasks: 1 } }, strategy },
    });
    const short = await run(scheduler({ name: 'a-gem', fresh: 4 }));
    const own = await run({ ...scheduler({ name: 'naive' }), batch: { global: 4, micro: 2 } });
    expect(short.weights_sha256).toBe(own.weights_sha256);
    expect(short.losses_sha256).toBe(own.losses_sha256);
  });
});
