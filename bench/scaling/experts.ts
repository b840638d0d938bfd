// A mixture of experts on one worker against two that hold half of the experts each (data 2, expert 2).
//   npm run bench -- scaling/experts [--steps=70] [--runs=3] [--busy=1] [--patience=SECONDS]
// A run trains each of the configurations for so many steps: minutes. `--busy=0` leaves out the one that only tells what the
// machine allows.
import { transformer } from './model.ts';
import { inTurns } from './runs.ts';
import { expectEqualBits, flag, printHeading, printRatio, printTimes, stepTimes } from './table.ts';

// The first steps wait: V8 is not done, and experts get equal shares of the tokens only once their biases have settled.
const length = { steps: flag('steps', 70), drop: 20 };
const moe = { experts: 4, top_k: 2, every: 2, hidden: 512, bias_rate: 0.01 };
const configs = {
  one: transformer({}, { moe }),
  two: transformer({ data: 2, expert: 2 }, { moe }),
  // A whole batch on each of two workers: what two cores lose by sharing memory and clock, whatever the workers do.
  busy: { ...transformer({ data: 2 }, { moe }), batch: { global: 64, micro: 4 } },
};
const options = { patience: flag('patience', 0) };
const repetitions = flag('runs', 3);
const runs =
  flag('busy', 1) === 0
    ? { busy: null, ...(await inTurns({ one: configs.one, two: configs.two }, repetitions, length, options)) }
    : await inTurns(configs, repetitions, length, options);
expectEqualBits([runs.one, runs.two]);
const [one, two] = [stepTimes(runs.one), stepTimes(runs.two)];
const busy = runs.busy && stepTimes(runs.busy);
printHeading('mixture of experts: 4 blocks, d = 256, 4 experts (top 2) in every second block, 32 x 128 tokens a step');
printTimes('one worker, all experts', one);
printTimes('two workers (data 2, expert 2)', two);
if (busy) printTimes('two workers, a whole batch each', busy);
printRatio('speed-up', one.median / two.median, 1.85);
printRatio('speed-up of the best steps', one.best / two.best, null);
printRatio('CPU time: one / half of two', (2 * one.cpu) / two.cpu, null, 'what it would be if nobody had to wait');
if (busy)
  printRatio(
    'speed-up that two cores allow',
    (2 * one.median) / busy.median,
    null,
    'if workers had nothing to do with each other',
  );
