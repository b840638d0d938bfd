// What a snapshot costs: the copy of everything a rank holds, against a plain copy of as many bytes, and as a share of a
// step of a model of 10 million parameters.
//   npm run bench -- worker/snapshot [--rounds=8] [--layers=13] [--dim=256]
import {
  createRanks,
  type PreparedRun,
  type Program,
  prepareQuietly,
  type ResolvedModel,
  resolveConfig,
  type WorkerJob,
} from '../../src/index.ts';
import { timing, timingText } from '../engine/stats.ts';
import { flag, printHeading } from '../scaling/table.ts';

const config = resolveConfig({
  seed: 1,
  model: { name: 'transformer-lm', args: { layers: flag('layers', 13), dim: flag('dim', 256), heads: 4 } },
  data: { name: 'moby-dick', context: 128, tokenizer: { kind: 'char' }, validation: 0.005 },
  batch: { global: 8, micro: 8 },
  optim: { name: 'adamw', lr: 1e-3 },
  engine: { threads: 1 },
});

function jobOf({ data, engine, plan }: PreparedRun): WorkerJob {
  return {
    runId: 'bench',
    rank: 0,
    seed: config.seed,
    model: config.model as ResolvedModel,
    optim: config.optim,
    totalSteps: 1000,
    data,
    engine,
    batch: config.batch,
    numerics: 'exact',
    remat: 'none',
    train: plan.programs[0] as Program,
    evaluate: plan.evaluate[0] as Program,
    deadlineMs: 60_000,
    checkpoint: null,
    trace: false,
  };
}

const { ranks, dispose } = await createRanks([jobOf(await prepareQuietly(config))]);
const [rank] = ranks;
if (!rank) throw new Error('no rank was made');
const { bytes, tensors } = rank.snapshots();
const parameters = rank.ready.paramBytes / 4;
printHeading(`a snapshot of ${(parameters / 1e6).toFixed(1)} M parameters with AdamW's state`);

const steps: number[] = [];
const copies: number[] = [];
const bound: number[] = [];
const from = new Float32Array(bytes / 4).fill(1);
const to = [0, 1, 2].map(() => new Float32Array(bytes / 4));
const rounds = flag('rounds', 8);
// The first few steps touch new memory, of the pool and of each slot.
for (let step = 0; step < rounds + 4; step++) {
  const start = performance.now();
  await rank.step(step);
  const stepped = performance.now();
  await rank.snapshot(step + 1);
  const copied = performance.now();
  (to[step % 3] as Float32Array).set(from);
  const done = performance.now();
  if (step < 4) continue;
  steps.push(stepped - start);
  copies.push(copied - stepped);
  bound.push(done - copied);
}
await dispose();
const rate = (ms: number): string => `${(bytes / ms / 1e6).toFixed(1)} GB/s`;
const [step, copy, plain] = [timing(steps), timing(copies), timing(bound)];
console.log(`  ${tensors.length} tensors, ${(bytes / 1e6).toFixed(0)} MB`);
console.log(`  step          ${timingText(step)}`);
console.log(`  snapshot      ${timingText(copy)}, ${rate(copy.min)}`);
console.log(`  plain copy    ${timingText(plain)}, ${rate(plain.min)}`);
console.log(`  of the bound  ${(plain.min / copy.min).toFixed(2)} (by the quickest of each)`);
console.log(`  of a step     ${((100 * copy.median) / step.median).toFixed(2)} % (target: at most 2 %)`);
