// What data-parallel workers spend on exchanging gradients and updated parameters, of a step of a 6-layer transformer.
//   npm run bench -- scaling/gradient-exchange [--steps=40] [--runs=3] [--patience=SECONDS]
import { transformer } from './model.ts';
import { inTurns, type TimedRun } from './runs.ts';
import { expectEqualBits, flag, printHeading, printTimes, stepTimes } from './table.ts';

/** Share of a step that the exchange may take. */
const TARGET = 0.05;

const length = { steps: flag('steps', 40), drop: 20 };
const model = { layers: 6 };
const configs = { sharded: transformer({ data: 2, zero: 1 }, model), whole: transformer({ data: 2, zero: 0 }, model) };
const names = ['sharded', 'whole'] as const;
const runs = await inTurns(configs, flag('runs', 3), length, { patience: flag('patience', 0), traced: names });
expectEqualBits([runs.sharded, runs.whole]);
printHeading(
  'data parallel over 2 workers: 6 blocks, d = 256, 32 x 128 tokens a step in 8 microbatches, AdamW with clipping',
);
for (const name of names) {
  const times = stepTimes(runs[name]);
  printTimes(name === 'sharded' ? 'optimizer state sharded (zero 1)' : 'whole optimizer state (zero 0)', times);
  const best = Math.min(...runs[name].map(exchangeMs));
  const share = best / times.median;
  console.log(
    `  exchange of gradients${name === 'sharded' ? ' and parameters' : ''}  ${best.toFixed(2)} ms, ${(100 * share).toFixed(1)} % of a step` +
      `  target <= ${100 * TARGET} %: ${share <= TARGET ? 'met' : 'NOT met'}`,
  );
}

/** Milliseconds of the rank that spends most; waiting for the other one included. */
function exchangeMs({ kinds }: TimedRun): number {
  return Math.max(
    ...kinds.map((rank) =>
      ['AllReduce', 'ReduceScatter', 'AllGather'].reduce((sum, kind) => sum + (rank.get(kind) ?? 0), 0),
    ),
  );
}
