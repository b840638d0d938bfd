// Two data-parallel workers against one, each with one engine thread: the same steps, bit for bit, in half the time?
//   npm run bench -- scaling/data-parallel [--steps=24] [--runs=3] [--patience=SECONDS]
import { transformer } from './model.ts';
import { inTurns } from './runs.ts';
import { expectEqualBits, flag, printHeading, printRatio, printTimes, stepTimes } from './table.ts';

const length = { steps: flag('steps', 24), drop: 3 };
const configs = {
  one: transformer({}),
  two: transformer({ data: 2 }),
  // A whole batch on each of two workers: what two cores lose by sharing memory and clock, whatever the workers do.
  busy: { ...transformer({ data: 2 }), batch: { global: 64, micro: 4 } },
};
const runs = await inTurns(configs, flag('runs', 3), length, { patience: flag('patience', 0) });
expectEqualBits([runs.one, runs.two]);
const [one, two, busy] = [stepTimes(runs.one), stepTimes(runs.two), stepTimes(runs.busy)];
printHeading('data parallel: 4 blocks, d = 256, 32 x 128 tokens a step in 8 microbatches, AdamW with clipping');
printTimes('one worker', one);
printTimes('two workers (data 2)', two);
printTimes('two workers, a whole batch each', busy);
printRatio('speed-up', one.median / two.median, 1.85);
printRatio('speed-up of the best steps', one.best / two.best, null);
printRatio('CPU time: one / half of two', (2 * one.cpu) / two.cpu, null, 'what it would be if nobody had to wait');
printRatio(
  'speed-up that two cores allow',
  (2 * one.median) / busy.median,
  null,
  'if workers had nothing to do with each other',
);
