import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunEvent, train } from '../../src/index.ts';
import { timing } from '../engine/stats.ts';
import { busySeconds, DISTURBED, quiet } from './quiet.ts';

/** A config as `train` takes it, without `run` and `train`, which the benchmark fills in. */
export type BenchConfig = Readonly<Record<string, unknown>>;

/** What one timed run gave. */
export interface TimedRun {
  /** Milliseconds of each step after the dropped ones, from the end of one to the end of the next. */
  readonly stepMs: readonly number[];
  /** CPU milliseconds of the whole process for each of those steps: without what other processes take. */
  readonly cpuMs: number;
  /** Cores that other processes kept busy meanwhile; NaN where the system does not tell. */
  readonly others: number;
  /** Loss of the last step: equal for all runs that must have equal bits. */
  readonly loss: number;
  /** Bytes of parameters that each rank holds. */
  readonly paramBytes: readonly number[];
  /** By rank, the milliseconds of every instruction of its program, step by step; empty unless asked for. */
  readonly instructions: readonly (readonly (readonly number[])[])[];
  /** By rank and kind of instruction, the median milliseconds of a step; empty unless traced. */
  readonly kinds: readonly ReadonlyMap<string, number>[];
}

/** How long runs are. */
export interface Length {
  readonly steps: number;
  /** First steps that are not counted: first use of memory, and of sizes of experts' buckets. */
  readonly drop: number;
}

/** Trains on worker threads for some steps. With `trace` the run goes to its end, and instructions are timed. */
export async function timedRun(config: BenchConfig, length: Length, trace = false): Promise<TimedRun> {
  const { steps, drop } = length;
  const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  const stepMs: number[] = [];
  let paramBytes: number[] = [];
  let cpu = process.cpuUsage();
  let machine = busySeconds();
  let cpuMs = 0;
  let others = Number.NaN;
  let last = performance.now();
  let loss = Number.NaN;
  let folder = '';
  try {
    // Without a trace it is planned longer than what is looked at, so that no evaluation or checkpoint comes.
    const options = { train: { steps: trace ? steps : 100_000 }, run: { dir, trace } };
    const events: AsyncIterable<RunEvent> = train({ ...config, ...options });
    for await (const event of events) {
      if (event.type === 'started') {
        folder = event.dir;
        paramBytes = event.workers.map((worker) => worker.paramBytes);
      }
      if (event.type !== 'step') continue;
      const now = performance.now();
      if (event.step <= drop) [cpu, machine] = [process.cpuUsage(), busySeconds()];
      else stepMs.push(now - last);
      last = now;
      loss = event.loss;
      if (event.step < steps) continue;
      const { user, system } = process.cpuUsage(cpu);
      cpuMs = (user + system) / 1000 / (steps - drop);
      const own = (user + system) / 1e6;
      const seconds = stepMs.reduce((sum, ms) => sum + ms, 0) / 1000;
      others = Math.max(0, busySeconds() - machine - own) / seconds;
      if (!trace) break;
    }
    const traced = trace ? readTrace(join(folder, 'trace.json'), length) : [];
    const instructions = traced.map((steps) => steps.map((events) => events.map(({ dur }) => dur / 1000)));
    return { stepMs, cpuMs, others, loss, paramBytes, instructions, kinds: traced.map(kindTimes) };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

interface TraceEvent {
  readonly ph: string;
  readonly cat: string;
  readonly tid: number;
  readonly dur: number;
  readonly args: { readonly step?: number };
}

/** Instructions by rank and step. */
function readTrace(file: string, { steps, drop }: Length): TraceEvent[][][] {
  const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { readonly traceEvents: readonly TraceEvent[] };
  const ranks: TraceEvent[][][] = [];
  for (const event of traceEvents) {
    const { ph, tid, args } = event;
    if (ph !== 'X' || args.step === undefined || args.step < drop || args.step >= steps) continue;
    ranks[tid] ??= [];
    const rank = ranks[tid] as TraceEvent[][];
    rank[args.step - drop] ??= [];
    rank[args.step - drop]?.push(event);
  }
  return ranks;
}

/** Median milliseconds that each kind of instruction takes of a step. */
function kindTimes(steps: readonly (readonly TraceEvent[])[]): Map<string, number> {
  const kinds = new Set(steps.flat().map(({ cat }) => cat));
  const ofStep = (events: readonly TraceEvent[], kind: string) =>
    events.reduce((sum, { cat, dur }) => (cat === kind ? sum + dur / 1000 : sum), 0);
  return new Map([...kinds].map((kind) => [kind, timing(steps.map((events) => ofStep(events, kind))).median]));
}

/**
 * Runs several configs in turns, so that what else the machine does falls on all of them alike. Runs that other processes
 * disturbed are repeated for up to `patience` seconds in all.
 */
export async function inTurns<Name extends string>(
  configs: Readonly<Record<Name, BenchConfig>>,
  repetitions: number,
  length: Length,
  { patience = 0, traced = [] }: { readonly patience?: number; readonly traced?: readonly NoInfer<Name>[] } = {},
): Promise<Record<Name, TimedRun[]>> {
  const names = Object.keys(configs) as Name[];
  const runs = Object.fromEntries(names.map((name) => [name, [] as TimedRun[]])) as Record<Name, TimedRun[]>;
  const until = performance.now() + patience * 1000;
  for (let i = 0; i < repetitions; i++)
    for (const name of i % 2 === 0 ? names : [...names].reverse()) {
      let run: TimedRun;
      do {
        await quiet(until);
        run = await timedRun(configs[name], length, traced.includes(name));
        process.stderr.write(run.others > DISTURBED ? '!' : '.');
      } while (run.others > DISTURBED && performance.now() < until);
      runs[name].push(run);
    }
  process.stderr.write('\n');
  return runs;
}
