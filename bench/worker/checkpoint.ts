// What checkpoints cost a run: steps of a model of 10 million parameters without checkpoints, and with one every few steps,
// which is written while training goes on. Runs in turns.
//   npm run bench -- worker/checkpoint [--steps=12] [--every=4] [--runs=2] [--layers=13]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { train } from '../../src/index.ts';
import { timing, timingText } from '../engine/stats.ts';
import { flag, printHeading } from '../scaling/table.ts';

const steps = flag('steps', 12);
const every = flag('every', 4);
const DROP = 2;

interface Timed {
  /** Milliseconds of steps, from the end of one to the end of the next. */
  readonly steps: number[];
  /** Milliseconds that training waited for each checkpoint, and from then until it was safe. */
  readonly waits: number[];
  readonly written: number[];
  bytes: number;
}

const none: Timed = { steps: [], waits: [], written: [], bytes: 0 };
const some: Timed = { steps: [], waits: [], written: [], bytes: 0 };

async function run(checkpointEvery: number, timed: Timed): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  try {
    const events = train({
      seed: 1,
      model: { name: 'transformer-lm', args: { layers: flag('layers', 13), dim: 256, heads: 4 } },
      data: { name: 'moby-dick', context: 128, tokenizer: { kind: 'char' }, validation: 0.005 },
      batch: { global: 8, micro: 8 },
      optim: { name: 'adamw', lr: 1e-3 },
      engine: { threads: 1 },
      // More than are looked at, so that no evaluation comes.
      train: { steps: 100_000, checkpoint_every: checkpointEvery, keep_last: 1 },
      run: { dir },
    });
    let last = performance.now();
    for await (const event of events) {
      if (event.type === 'checkpointed') {
        timed.waits.push(event.waitMs);
        timed.written.push(event.ms - event.waitMs);
        timed.bytes = event.bytes;
      }
      if (event.type !== 'step') continue;
      const now = performance.now();
      if (event.step > DROP) timed.steps.push(now - last);
      last = now;
      if (event.step >= steps + DROP) break;
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

for (let i = 0; i < flag('runs', 2); i++) {
  await run(0, none);
  await run(every, some);
}
printHeading(`a checkpoint every ${every} steps`);
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
console.log(`  without        ${timingText(timing(none.steps))}, mean ${mean(none.steps).toFixed(1)} ms a step`);
console.log(`  with           ${timingText(timing(some.steps))}, mean ${mean(some.steps).toFixed(1)} ms a step`);
console.log(`  training waits ${timingText(timing(some.waits))} for each`);
console.log(`  safe after     ${timingText(timing(some.written))}, ${(some.bytes / 1e6).toFixed(0)} MB`);
console.log(`  ratio of means ${(mean(some.steps) / mean(none.steps)).toFixed(3)}`);
