import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  complete,
  evaluateRun,
  type RunEvent,
  type RunSummary,
  readMetrics,
  resolveConfig,
  resume,
  train,
} from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-local-sgd-'));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(() => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
});

const config = (id: string, more: Record<string, unknown> = {}): Record<string, unknown> => ({
  name: 'tiny',
  model: { name: 'transformer-lm', args: { layers: 2, dim: 32, heads: 2 } },
  data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
  batch: { global: 8, micro: 2 },
  optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
  train: { steps: 20, eval_every: 5, checkpoint_every: 7 },
  parallel: { data: 2 },
  scheduler: { name: 'local-sgd', inner_steps: 5 },
  run: { dir: join(root, 'runs'), id },
  ...more,
});

async function run(id: string, more: Record<string, unknown> = {}) {
  const events: RunEvent[] = [];
  const finished = await complete(train(config(id, more)), (event) => events.push(event));
  return { events, dir: finished.dir, summary: finished.summary as RunSummary };
}

describe('local-sgd', () => {
  it('learns with a fraction of the bytes, evaluates averages, and goes on from the middle of a round to the bit', async () => {
    const compression = { gradients: 'int8' };
    const whole = await run('whole', { comm: { compression } });
    const evaluated = whole.events.flatMap((event) => (event.type === 'evaluated' ? [event.step] : []));
    expect(evaluated).toEqual([5, 10, 15, 20]);
    const lines = await readMetrics(join(whole.dir, 'metrics.jsonl'));
    expect(lines.map(({ comm_bytes }) => Number(comm_bytes) > 0)).toEqual(
      Array.from({ length: 20 }, (_, i) => (i + 1) % 5 === 0),
    );
    const { loss, comm_bytes = 0, comm_bytes_saved = 0, comm_bytes_synchronous = 0 } = whole.summary;
    expect(loss).toBeLessThan((lines[0]?.loss as number) * 0.8);
    expect(comm_bytes_saved / comm_bytes).toBeGreaterThan(2.8);
    expect(comm_bytes_synchronous / comm_bytes).toBeGreaterThan(5 * 3.8);
    // The estimate is what a synchronous run sends.
    const synchronous = await run('sync', { scheduler: { name: 'sync' } });
    expect(comm_bytes_synchronous / (synchronous.summary.comm_bytes as number)).toBeCloseTo(1, 1);
    expect(synchronous.summary).not.toHaveProperty('comm_bytes_synchronous');
    // From step 14: in the middle of the third round.
    await complete(train(config('cut', { comm: { compression } })), () => undefined);
    const resumed = await complete(resume(join(root, 'runs', 'cut'), [], { step: 14 }));
    expect(resumed.summary?.weights_sha256).toBe(whole.summary.weights_sha256);
    expect(resumed.summary?.losses_sha256).toBe(whole.summary.losses_sha256);
    expect(resumed.summary?.val_loss).toBe(whole.summary.val_loss);
    // The averaged model, on another mesh.
    const { loss: again } = await evaluateRun(whole.dir, { overrides: ['parallel.data=1'] });
    expect(again).toBe(whole.summary.val_loss);
  });

  it('says what does not fit', async () => {
    const lines = (more: Record<string, unknown>): string => {
      try {
        resolveConfig(config('no', more));
        return '';
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(lines({ train: { steps: 22 } })).toContain('no multiple of 5: set it to 25');
    const experts = { model: { name: 'transformer-lm', args: { layers: 2, dim: 16, heads: 2, moe: { experts: 2 } } } };
    await expect(run('experts', { ...experts, parallel: { data: 2, expert: 2 } })).rejects.toThrow('parallel.expert 2');
    const odd = await run('odd', { train: { steps: 5, eval_every: 2 } });
    expect(odd.events).toContainEqual({ type: 'warning', message: expect.stringContaining('train.eval_every 2') });
  });
});
