import { cpus, loadavg } from 'node:os';
import { timing } from '../engine/stats.ts';
import type { TimedRun } from './runs.ts';

/** Value of `--name=value` on the command line, or the default. */
export function flag(name: string, otherwise: number): number {
  const given = process.argv.find((arg) => arg.startsWith(`--${name}=`))?.split('=')[1];
  return given === undefined ? otherwise : Number(given);
}

/** Step times of several runs of one config. */
export interface StepTimes {
  /** Median of the runs' medians, in milliseconds: what the ratios are made of. */
  readonly median: number;
  /** The quickest and the slowest run's median. */
  readonly low: number;
  readonly high: number;
  /** The quickest step of all: what the machine does when nothing disturbs it. */
  readonly best: number;
  /** CPU milliseconds of a step over all threads, of the run that took the least. */
  readonly cpu: number;
  /** Cores that other processes kept busy in the run that they disturbed most. */
  readonly others: number;
}

/** Sums up runs of one config. */
export function stepTimes(runs: readonly TimedRun[]): StepTimes {
  const medians = timing(runs.map(({ stepMs }) => timing(stepMs).median));
  return {
    median: medians.median,
    low: medians.min,
    high: medians.max,
    best: Math.min(...runs.flatMap(({ stepMs }) => stepMs)),
    cpu: Math.min(...runs.map(({ cpuMs }) => cpuMs)),
    others: Math.max(...runs.map((run) => run.others)),
  };
}

/** Prints what was measured where. */
export function printHeading(what: string): void {
  console.log(`${what}\n${cpus().length} cores (${cpus()[0]?.model.trim()}), load ${loadavg()[0]?.toFixed(1)}`);
}

/** Prints a line of step times. */
export function printTimes(name: string, times: StepTimes): void {
  const { median, low, high, best, cpu, others } = times;
  const spread = `${low.toFixed(0)}-${high.toFixed(0)}`;
  console.log(
    `${name.padEnd(34)} ${median.toFixed(1).padStart(8)} ms a step (runs ${spread}, best step ${best.toFixed(1)}, CPU ${cpu.toFixed(0)}; others took ${others.toFixed(2)} cores)`,
  );
}

/** Prints a ratio beside its target. */
export function printRatio(name: string, ratio: number, target: number | null, note = ''): void {
  const verdict = target === null ? '' : `  target >= ${target}: ${ratio >= target ? 'met' : 'NOT met'}`;
  console.log(`  ${name.padEnd(32)} ${ratio.toFixed(3).padStart(8)}x${verdict}${note ? `  (${note})` : ''}`);
}

/** Ends with an error unless all runs came to the same loss. */
export function expectEqualBits(runs: readonly (readonly TimedRun[])[]): void {
  const losses = new Set(runs.flat().map(({ loss }) => loss));
  if (losses.size > 1) throw new Error(`runs that must agree to the bit came to losses ${[...losses].join(', ')}`);
}
