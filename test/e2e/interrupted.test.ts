import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { createRng } from '../../src/tensor/index.ts';
import { checkpointsOf, plexus, project, runOf, set, stepOf, summaryOf } from './plexus.ts';

const STEPS = 60;
const settings = set({
  'train.steps': STEPS,
  'train.eval_every': 0,
  'train.checkpoint_every': 10,
  'model.args.dropout': 0.1,
});
const mesh = (data: number, pipeline: number, expert: number) =>
  set({ 'parallel.data': data, 'parallel.pipeline': pipeline, 'parallel.expert': expert });

/** What must not depend on interruptions and meshes. */
const resultOf = (folder: string) => {
  const { losses_sha256, weights_sha256, val_loss, loss, steps, samples_seen } = summaryOf(folder);
  return { losses_sha256, weights_sha256, val_loss, loss, steps, samples_seen };
};

/** Trains until `step` and sends a signal then; one that leaves no time for a checkpoint comes after the first. Returns the number of steps that the run says it has done. */
async function stopAt(folder: string, step: number, signal: NodeJS.Signals, args: readonly string[]): Promise<number> {
  let sent = false;
  let safe = signal !== 'SIGKILL';
  const outcome = await plexus(['train', 'config.yaml', '--json', ...settings, ...args], {
    cwd: folder,
    onLine: (line, kill) => {
      safe ||= line.includes('"checkpointed"');
      if (sent || !safe || (stepOf(line) ?? 0) < step) return;
      sent = true;
      kill(signal);
    },
  });
  const codes: Partial<Record<NodeJS.Signals, number>> = { SIGINT: 130, SIGTERM: 143 };
  expect(outcome).toMatchObject(signal === 'SIGKILL' ? { signal } : { code: codes[signal], stderr: '' });
  if (signal === 'SIGKILL') return 0;
  const last = JSON.parse(outcome.stdout.trimEnd().split('\n').at(-1) as string);
  expect(last).toMatchObject({ type: 'finished', status: 'interrupted' });
  expect(checkpointsOf(folder)).toContain(`step-${last.step}`);
  return last.step;
}

/** Trains to the end. */
async function finish(folder: string, args: readonly string[]): Promise<void> {
  const outcome = await plexus(['train', 'config.yaml', '--json', ...settings, ...args], { cwd: folder });
  expect(outcome).toMatchObject({ code: 0, stderr: '' });
}

describe('an interrupted and resumed run ends with the bits of an undisturbed one', () => {
  const rng = createRng('interruptions');
  let undisturbed: ReturnType<typeof resultOf>;
  beforeAll(async () => {
    const folder = project();
    await finish(folder, mesh(1, 1, 1));
    undisturbed = resultOf(folder);
    expect(undisturbed).toMatchObject({ steps: STEPS, samples_seen: STEPS * 8 });
  });

  it.each([
    ['SIGINT', mesh(2, 1, 2), mesh(1, 2, 1)],
    ['SIGTERM', mesh(1, 2, 1), mesh(2, 1, 2)],
    ['SIGKILL', mesh(2, 1, 1), mesh(1, 1, 1)],
  ] as const)('%s, then another mesh', async (signal, before, after) => {
    const folder = project();
    const step = 12 + rng.integer(30);
    await stopAt(folder, step, signal, before);
    await finish(folder, ['--resume', runOf(folder), ...after]);
    expect(resultOf(folder)).toEqual(undisturbed);
  });

  it('again and again', async () => {
    const folder = project();
    await stopAt(folder, 3 + rng.integer(5), 'SIGINT', mesh(2, 1, 2));
    const run = ['--resume', runOf(folder)];
    const meshes = [mesh(1, 1, 1), mesh(2, 2, 1)];
    let done = 0;
    for (const other of meshes) {
      const before = done;
      done = await stopAt(folder, before + 15, 'SIGINT', [...run, ...other]);
      expect(done).toBeGreaterThan(before);
    }
    await finish(folder, [...run, ...mesh(2, 1, 1)]);
    expect(resultOf(folder)).toEqual(undisturbed);
    const lines = readFileSync(join(runOf(folder), 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n');
    expect(lines.map((line) => JSON.parse(line).step)).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1));
    expect(checkpointsOf(folder)).toEqual(['step-50', `step-${STEPS}`]);
  });

  it('stopped before its first step', async () => {
    const folder = project();
    let sent = false;
    const outcome = await plexus(['train', 'config.yaml', '--json', ...settings], {
      cwd: folder,
      onLine: (_, kill) => {
        if (!sent) kill('SIGINT');
        sent = true;
      },
    });
    expect(outcome.code).toBe(130);
    expect(outcome.seconds).toBeLessThan(20);
  });
});
