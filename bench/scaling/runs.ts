import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunEvent, train } from '../../src/index.ts';

/** A config as `train` takes it, without `run` and `train`, which the benchmark fills in. */
export type BenchConfig = Readonly<Record<string, unknown>>;

/** What one timed run gave. */
export interface TimedRun {
  /** Milliseconds of each step after the dropped ones, from the end of one to the end of the next. */
  readonly stepMs: readonly number[];
  /** Milliseconds that ranks spent in communication instructions in each of those steps (the longest of them). */
  readonly commMs: readonly number[];
  /** CPU milliseconds of the whole process for each of those steps: without what other processes take. */
  readonly cpuMs: number;
  /** Loss of the last step: equal for all runs that should have equal bits. */
  readonly loss: number;
}

/** How long runs are. */
export interface Length {
  readonly steps: number;
  /** First steps that are not counted: compilation of buckets, first use of memory. */
  readonly drop: number;
}

/** Trains on worker threads for some steps, and ends the run there. */
export async function timedRun(config: BenchConfig, { steps, drop }: Length): Promise<TimedRun> {
  const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  const stepMs: number[] = [];
  const commMs: number[] = [];
  let cpu = process.cpuUsage();
  let last = performance.now();
  let loss = Number.NaN;
  try {
    // Longer than what is looked at, so that no evaluation or checkpoint comes.
    const events: AsyncIterable<RunEvent> = train({
      ...config,
      train: { steps: 100_000 },
      run: { dir },
    });
    for await (const event of events) {
      if (event.type === 'warning') throw new Error(`the benchmark's config draws a warning: ${event.message}`);
      if (event.type !== 'step') continue;
      const now = performance.now();
      if (event.step > drop) {
        stepMs.push(now - last);
        commMs.push(event.commMs);
      } else cpu = process.cpuUsage();
      last = now;
      loss = event.loss;
      if (event.step < steps) continue;
      const { user, system } = process.cpuUsage(cpu);
      return { stepMs, commMs, cpuMs: (user + system) / 1000 / (steps - drop), loss };
    }
    throw new Error('the run ended before its last step');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Runs several configs in turns, so that what else the machine does falls on all of them alike. */
export async function inTurns<Name extends string>(
  configs: Readonly<Record<Name, BenchConfig>>,
  repetitions: number,
  length: Length,
): Promise<Record<Name, TimedRun[]>> {
  const names = Object.keys(configs) as Name[];
  const runs = Object.fromEntries(names.map((name) => [name, [] as TimedRun[]])) as Record<Name, TimedRun[]>;
  for (let i = 0; i < repetitions; i++)
    for (const name of i % 2 === 0 ? names : [...names].reverse()) {
      runs[name].push(await timedRun(configs[name], length));
      process.stderr.write('.');
    }
  process.stderr.write('\n');
  return runs;
}
