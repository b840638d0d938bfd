// Two pipeline stages against one worker, and against what the schedule allows.
//   npm run bench -- scaling/pipeline [--steps=44] [--drop=20] [--runs=3] [--patience=SECONDS]
//
// The bound is found with the measured costs of each stage: one worker runs both stages one after the other (a table
// with one row), every instruction is timed, and the planner's simulator runs the two ranks' programs of 1f1b with the
// medians, communication taking no time. Two cores that share memory are slower than one alone, whatever the schedule:
// so the same is done with costs measured while the other core does the same work. For equal stages and a free optimizer step that is p * m / (m + p - 1).
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepareQuietly, resolveConfig, type StepCosts, simulate } from '../../src/index.ts';
import { timing } from '../engine/stats.ts';
import { transformer } from './model.ts';
import { type BenchConfig, inTurns, type TimedRun } from './runs.ts';
import { expectEqualBits, flag, printHeading, printRatio, printTimes, stepTimes } from './table.ts';

const length = { steps: flag('steps', 44), drop: flag('drop', 20) };
const microbatches = 8;
const row = Array.from({ length: microbatches }, (_, m) => [`0F${m}`, `1F${m}`, `1B${m}`, `0B${m}`]).flat();
const tables = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
const table = join(tables, 'one-worker.csv');
writeFileSync(table, `${row.join(',')}\n`);
const configs = {
  one: transformer({}),
  staged: transformer({ schedule: { file: table } }),
  // The same work on both cores at once, each with a whole batch of its own: what they lose to sharing memory.
  busy: { ...transformer({ data: 2, schedule: { file: table } }), batch: { global: 64, micro: 4 } },
  '1f1b': transformer({ pipeline: 2, schedule: '1f1b' }),
  zeroBubble: transformer({ pipeline: 2, schedule: 'zero-bubble' }),
};
const runs = await inTurns(configs, flag('runs', 3), length, {
  patience: flag('patience', 0),
  traced: ['staged', 'busy'],
});
expectEqualBits([runs.one, runs.staged, runs['1f1b'], runs.zeroBubble]);

/** Median milliseconds of every kind of work on each stage, as one worker does it. */
async function measuredCosts(
  config: BenchConfig,
  timed: readonly TimedRun[],
  share: readonly number[],
): Promise<StepCosts> {
  const { plan } = await prepareQuietly(resolveConfig(config));
  const program = plan.programs[0];
  if (!program) throw new Error('a plan has at least one rank');
  const samples = new Map<string, number[]>();
  for (const step of timed.flatMap(({ instructions }) => instructions[0] ?? []))
    program.instructions.forEach((instruction, i) => {
      const key = 'stage' in instruction ? `${instruction.op} ${instruction.stage}` : instruction.op;
      const known = samples.get(key);
      if (known) known.push(step[i] as number);
      else samples.set(key, [step[i] as number]);
    });
  const median = (key: string) => timing(samples.get(key) ?? [0]).median / 1000;
  return {
    bytesPerSecond: Number.POSITIVE_INFINITY,
    latencySeconds: 0,
    bytes: () => 0,
    activationBytes: () => 0,
    seconds: (instruction) => {
      switch (instruction.op) {
        case 'Optimize':
          // A rank updates what it holds.
          return instruction.stages.reduce((sum, stage) => sum + (share[stage] ?? 0) * median('Optimize'), 0);
        case 'Forward':
        case 'Backward':
        case 'LoadBatch':
          return median(`${instruction.op} ${instruction.stage}`);
        default:
          return 0;
      }
    },
  };
}

const held = runs['1f1b'][0]?.paramBytes ?? [];
const share = held.map((bytes) => bytes / held.reduce((sum, each) => sum + each, 0));
const costs = await measuredCosts(configs.staged, runs.staged, share);
const { plan } = await prepareQuietly(resolveConfig(configs['1f1b']));
const bound = simulate(plan.programs, costs).seconds * 1000;
const busyCosts = await measuredCosts(configs.busy, runs.busy, share);
const busyBound = simulate(plan.programs, busyCosts).seconds * 1000;
const [one, staged, pipelined, zeroBubble] = [
  stepTimes(runs.one),
  stepTimes(runs.staged),
  stepTimes(runs['1f1b']),
  stepTimes(runs.zeroBubble),
];
const [m, p] = [plan.batch.microbatches, plan.mesh.pipeline];
printHeading(`pipeline: 4 blocks, d = 256, ${p} stages, ${m} microbatches of 4 x 128 tokens, AdamW with clipping`);
printTimes('one worker', one);
printTimes('one worker, both stages in turns', staged);
printTimes('two stages, 1f1b', pipelined);
printTimes('two stages, zero-bubble', zeroBubble);
console.log(
  `bound of 1f1b: ${bound.toFixed(1)} ms a step, ${(staged.median / bound).toFixed(3)}x one worker (equal stages without an optimizer step: p m / (m + p - 1) = ${((p * m) / (m + p - 1)).toFixed(3)}x)`,
);
printRatio('1f1b, of the bound', bound / pipelined.median, 0.95);
printRatio('1f1b, best step, of the bound', bound / pipelined.best, null);
printRatio('1f1b, of the bound, cores busy', busyBound / pipelined.median, 0.95, `${busyBound.toFixed(1)} ms`);
printRatio('1f1b, speed-up', staged.median / pipelined.median, null);
printRatio('zero-bubble, speed-up', staged.median / zeroBubble.median, null);
printRatio('zero-bubble / 1f1b', pipelined.median / zeroBubble.median, 1);
rmSync(tables, { recursive: true });
