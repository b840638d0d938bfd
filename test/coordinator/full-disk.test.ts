import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  CheckpointError,
  complete,
  newestCheckpoint,
  type RunEvent,
  readMetrics,
  resume,
  runFolderAt,
  train,
} from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-disk-'));
const disk = mkdtempSync(join(tmpdir(), 'plexus-small-'));

/** A disk of two megabytes, where this process may mount one. */
const mounted = (() => {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

beforeAll(() => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
});
afterAll(() => {
  if (mounted) execFileSync('umount', [disk]);
  rmSync(disk, { recursive: true });
  rmSync(root, { recursive: true });
});

function config(id: string, more: object = {}, dir = disk): Record<string, unknown> {
  return {
    seed: 3,
    model: { name: 'transformer-lm', args: { layers: 2, dim: 16, heads: 2 } },
    data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
    batch: { global: 8, micro: 2 },
    optim: { name: 'adamw', lr: 0.01 },
    engine: { threads: 1 },
    parallel: { pipeline: 2 },
    run: { dir, id },
    train: { steps: 30, checkpoint_every: 5, keep_last: 1, ...more },
  };
}

const ballast = join(disk, 'ballast');
function fill(): void {
  for (let bytes = statfsSync(disk).bavail * 4096; bytes > 0; bytes -= 4096)
    try {
      writeFileSync(ballast, Buffer.alloc(bytes));
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
}
const empty = (): void => rmSync(ballast, { force: true });

/** Runs to the end; waits for what is done at each event. Returns the last event, or the error. */
async function follow(
  events: AsyncIterable<RunEvent>,
  onEvent: (event: RunEvent) => Promise<void> | void = () => undefined,
): Promise<{ finished: Extract<RunEvent, { type: 'finished' }> | null; error: unknown }> {
  let finished: Extract<RunEvent, { type: 'finished' }> | null = null;
  try {
    for await (const event of events) {
      await onEvent(event);
      if (event.type === 'finished') finished = event;
    }
    return { finished, error: null };
  } catch (error) {
    return { finished, error };
  }
}

/** Waits until the first checkpoint is there, then fills the disk. */
async function fillAfterFirst(id: string): Promise<void> {
  while (!existsSync(join(disk, id, 'checkpoints', 'step-5'))) await setTimeout(5);
  fill();
}

describe.skipIf(!mounted)('a disk that is full', () => {
  it('costs the checkpoints that do not fit, and the run goes on to the same bits', async () => {
    const undisturbed = await complete(train(config('undisturbed', {}, root)));
    const warnings: string[] = [];
    const saved: number[] = [];
    const { finished } = await follow(train(config('filled')), async (event) => {
      if (event.type === 'checkpointed') saved.push(event.step);
      if (event.type === 'warning') warnings.push(event.message);
      if (event.type === 'step' && event.step === 6) await fillAfterFirst('filled');
      if (event.type === 'step' && event.step === 14)
        expect(readdirSync(join(disk, 'filled/checkpoints'))).toContain('step-5');
      if (event.type === 'step' && event.step === 17) empty();
    });
    expect(finished?.summary?.weights_sha256).toBe(undisturbed.summary?.weights_sha256);
    expect(finished?.summary?.losses_sha256).toBe(undisturbed.summary?.losses_sha256);
    expect(saved[0]).toBe(5);
    expect(saved).not.toContain(10);
    expect(saved.slice(-2)).toEqual([25, 30]);
    expect(
      warnings.filter((text) =>
        /checkpoint of step 10 could not be written \(that of step 5 is kept\).*ENOSPC/.test(text),
      ),
    ).toHaveLength(1);
    expect(readdirSync(join(disk, 'filled/checkpoints'))).toEqual(['step-30']);
    // What had no room in between came later.
    const lines = await readMetrics(runFolderAt(finished?.dir as string).metrics);
    expect(lines.map(({ step }) => step)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    rmSync(join(disk, 'filled'), { recursive: true });
  });

  it('at the end is an error that names what is left, from which the run goes on', async () => {
    const events: RunEvent[] = [];
    const { error } = await follow(train(config('last')), async (event) => {
      events.push(event);
      if (event.type === 'step' && event.step === 8) await fillAfterFirst('last');
    });
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).message).toMatch(
      /checkpoint of step 30 could not be written \(that of step 5 is kept\): .*ENOSPC/,
    );
    expect((error as CheckpointError).checkpoint).toBe(join(disk, 'last/checkpoints/step-5'));
    expect(events.some((event) => event.type === 'finished')).toBe(false);
    empty();
    const { index } = await newestCheckpoint(join(disk, 'last/checkpoints'));
    expect(index.step).toBe(5);
    const finished = await complete(resume(join(disk, 'last')));
    const { summary } = await complete(train(config('whole', {}, root)));
    expect(finished.summary?.weights_sha256).toBe(summary?.weights_sha256);
    expect(finished.summary?.losses_sha256).toBe(summary?.losses_sha256);
    rmSync(join(disk, 'last'), { recursive: true });
  });

  it('ends the run at once where the config says so', async () => {
    let last = 0;
    const { error } = await follow(
      train(config('stop', { steps: 10_000, checkpoint_on_error: 'stop' })),
      async (event) => {
        if (event.type === 'step') last = event.step;
        if (event.type === 'step' && event.step === 8) await fillAfterFirst('stop');
      },
    );
    expect((error as Error).message).toMatch(/checkpoint of step 10 could not be written \(that of step 5 is kept\)/);
    expect(last).toBeLessThan(30);
    empty();
    expect(readdirSync(join(disk, 'stop/checkpoints'))).toEqual(['step-5']);
  });
});
