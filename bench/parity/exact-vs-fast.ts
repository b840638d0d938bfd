// What `numerics: exact` (the same bits on every mesh) costs against `fast` (sums in whatever order comes) in tokens/s,
// on two workers. Runs take turns. The ratio of medians is what a quiet machine is judged by; the ratios of the quickest
// runs and of their CPU time are disturbed less by other processes.
//
//   npm run bench -- parity/exact-vs-fast [repetitions] [steps]
import { resolveConfig } from '../../src/index.ts';
import { inTurns, type TimedRun } from '../scaling/runs.ts';

const [repetitions = 5, steps = 40] = process.argv.slice(2).map(Number);

/** The part of a config file that says what is computed; short runs, one thread a worker. */
function configOf(file: string, numerics: 'exact' | 'fast') {
  const { model, data, batch, optim, parallel, seed } = resolveConfig(file);
  return { seed, model, data, batch, optim, parallel, engine: { threads: 1 }, numerics };
}

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] as number;

/** Tokens a second of each run, from the median of its steps. */
const ratesOf = (runs: readonly TimedRun[], tokens: number): number[] =>
  runs.map(({ stepMs }) => (tokens * 1000) / median(stepMs));

const line = (cells: readonly string[]): string =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(40) : cell.padStart(24))).join('');

console.log(line(['tokens/s: median (least to most)', 'exact', 'fast', 'exact / fast']));
for (const [name, file] of [
  ['mixture of experts, data 2 × expert 2', 'configs/quickstart.yaml'],
  ['dense, data 2', 'configs/dense-lm.yaml'],
] as const) {
  const configs = { exact: configOf(file, 'exact'), fast: configOf(file, 'fast') };
  const { exact, fast } = await inTurns(configs, repetitions, { steps, drop: Math.ceil(steps / 4) });
  const { batch, data } = configs.exact;
  const tokens = batch.global * ('context' in data ? data.context : 1);
  const rates = [ratesOf(exact, tokens), ratesOf(fast, tokens)];
  const shown = rates.map(
    (all) => `${median(all).toFixed(0)} (${Math.min(...all).toFixed(0)} to ${Math.max(...all).toFixed(0)})`,
  );
  const [exactRate, fastRate] = rates.map(median) as [number, number];
  console.log(line([name, ...shown, (exactRate / fastRate).toFixed(3)]));
  const quickest = rates.map((all) => Math.max(...all)) as [number, number];
  const cpu = [exact, fast].map((runs) => Math.min(...runs.map((run) => run.cpuMs))) as [number, number];
  console.log(
    `  quickest runs ${(quickest[0] / quickest[1]).toFixed(3)}; CPU of a step ${cpu[0].toFixed(0)} against ${cpu[1].toFixed(0)} ms, ${(cpu[0] / cpu[1]).toFixed(3)}`,
  );
}
