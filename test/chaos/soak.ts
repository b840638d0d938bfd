import { setTimeout as delay } from 'node:timers/promises';
import { Cluster, type Outcome, type Training } from './cluster.ts';
import { FaultProxy } from './fault-proxy.ts';
import type { Proc } from './processes.ts';
import type { ProjectOptions } from './project.ts';

/** How long to disturb a run, and how often. */
export interface SoakOptions {
  readonly minutes: number;
  readonly faultEveryMs: number;
  /** Of the faults: the same seed gives the same ones. */
  readonly seed: number;
  /** What a step takes on this machine, roughly, in milliseconds: only the length of the run depends on it. */
  readonly stepMs?: number;
  /** Called with a line whenever something happens. */
  readonly say: (line: string) => void;
}

/** Resident memory of a process that lived through the whole run. */
export interface Memory {
  readonly name: string;
  /** MB, by time. */
  readonly samples: readonly number[];
  /** Median of the second quarter, when everything has been compiled and every kind of fault been seen, in MB. */
  readonly early: number;
  /** Median of the last quarter. */
  readonly late: number;
}

/** What came of it. */
export interface SoakReport {
  readonly faults: Readonly<Record<string, number>>;
  readonly steps: number;
  readonly minutes: number;
  readonly outcome: Outcome;
  readonly expected: Outcome;
  readonly memory: readonly Memory[];
}

/** What a step (default) and a fault take, roughly: only the length of the run depends on it. */
const STEP_MS = 90;
const FAULT_MS = 2500;
const SLEEP_MS = 60;
const LEASE_S = 2;
/** Longest time without a new step; more is a hang. */
const HANG_MS = 60_000;

/**
 * Trains one long run while something goes wrong every few seconds: workers and the coordinator are killed and started
 * again, workers frozen for longer than their lease, nats-server killed, the link of one worker cut or swallowed. One
 * worker (the witness) is never killed, so that its memory can be watched; the coordinator only in the first half.
 * @throws Error where no step is made for a minute
 */
export async function soak(options: SoakOptions): Promise<SoakReport> {
  const { minutes, faultEveryMs, seed, say, stepMs = STEP_MS } = options;
  const undisturbed = 1 - Math.min(0.6, FAULT_MS / faultEveryMs);
  const steps = Math.round((minutes * 60_000 * undisturbed) / stepMs);
  const project: ProjectOptions = {
    steps,
    moe: true,
    parallel: { data: 4, expert: 2 },
    checkpointEvery: 100,
    sections: { comm: { lease_s: LEASE_S } },
  };
  const on = await Cluster.start();
  try {
    const { hostname, port } = new URL(on.nats.url);
    const proxy = await FaultProxy.start({ host: hostname, port: Number(port) });
    on.onClose(() => proxy.close());
    const setting = { args: ['--lease', String(LEASE_S)], at: [{ op: 'Optimize', sleepMs: SLEEP_MS }] };
    const witness = on.worker(setting);
    const kept = on.keep(3, setting);
    const far = on.keep(1, { ...setting, url: `nats://${proxy.address}` });
    const config = on.config(project);
    const train = () => on.train(config, { args: ['--min-workers', '1'] });
    let run = train();
    await run.reached(1, 60_000);
    const began = performance.now();
    const random = generator(seed);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    const killWorker = () => pick(kept.running())?.signal('SIGKILL');
    const kinds: Readonly<Record<string, () => Promise<void> | void>> = {
      'worker killed': killWorker,
      'two workers killed': () => {
        killWorker();
        killWorker();
      },
      'worker frozen': async () => {
        const frozen = pick([witness, ...kept.running()]);
        frozen.signal('SIGSTOP');
        await delay(LEASE_S * 1500);
        if (frozen.running) frozen.signal('SIGCONT');
      },
      'worker frozen shortly': async () => {
        const frozen = pick([witness, ...kept.running()]);
        frozen.signal('SIGSTOP');
        await delay(LEASE_S * 300);
        if (frozen.running) frozen.signal('SIGCONT');
      },
      'coordinator killed': async () => {
        await run.proc.kill();
        run = train();
        await run.event('step', undefined, HANG_MS);
      },
      'nats-server killed': async () => {
        await on.nats.kill();
        await delay(1000);
        await on.nats.restart();
      },
      'link cut': async () => {
        await proxy.cut();
      },
      'link swallowed': async () => {
        await proxy.set({ blackHole: true });
        await delay(LEASE_S * 1500);
        await proxy.heal();
      },
    };
    const faults: Record<string, number> = {};
    const memory = new Map<Proc, number[]>([[witness, []]]);
    const sample = () => {
      memory.set(run.proc, memory.get(run.proc) ?? []);
      for (const [proc, samples] of memory) if (proc.running) samples.push(Math.round(proc.rss() / 1e6));
    };
    const sampling = setInterval(sample, Math.max(500, (minutes * 60_000) / 240));
    const expected = reference(project);
    // (It is waited for at the end.)
    expected.catch(() => undefined);
    try {
      for (let next = began + faultEveryMs; ; next += faultEveryMs) {
        await progress(on, () => run, Math.max(0, next - performance.now()));
        if (!run.proc.running) break;
        const late = performance.now() - began > minutes * 30_000;
        const kind = pick(Object.keys(kinds).filter((name) => !late || name !== 'coordinator killed'));
        say(`${((performance.now() - began) / 1000).toFixed(0)} s, step ${run.step} of ${steps}: ${kind}`);
        faults[kind] = (faults[kind] ?? 0) + 1;
        await (kinds[kind] as () => Promise<void> | void)();
      }
      kept.stop();
      far.stop();
      const outcome = await run.outcome();
      const taken = (performance.now() - began) / 60_000;
      return {
        faults,
        steps,
        minutes: taken,
        outcome,
        expected: await expected,
        memory: [memoryOf('witness', memory.get(witness)), memoryOf('coordinator', memory.get(run.proc))],
      };
    } finally {
      clearInterval(sampling);
      await expected.catch(() => undefined);
    }
  } finally {
    await on.close();
  }
}

/** Waits for a time or the end of the run. @throws Error where a minute passes without a step */
async function progress(on: Cluster, run: () => Training, ms: number): Promise<void> {
  const until = performance.now() + ms;
  let step = -1;
  let since = performance.now();
  await on.processes.until('progress', ms + HANG_MS * 2, () => {
    const now = performance.now();
    if (run().step !== step) {
      step = run().step;
      since = now;
    }
    if (now - since > HANG_MS) throw new Error(`a hang: no step after ${step} for ${HANG_MS} ms`);
    return now >= until || !run().proc.running;
  });
}

/** The same steps undisturbed, on one worker. */
async function reference(options: ProjectOptions): Promise<Outcome> {
  const alone = await Cluster.start({ nats: null });
  try {
    const config = alone.config({ ...options, parallel: {}, sections: {} });
    const run = alone.train(config, { url: null });
    // However long it takes beside the other run, as long as it goes on.
    while (run.proc.running) await progress(alone, () => run, HANG_MS);
    return await run.outcome();
  } finally {
    await alone.close();
  }
}

function memoryOf(name: string, samples: readonly number[] = []): Memory {
  const quarter = Math.floor(samples.length / 4);
  return {
    name,
    samples,
    early: median(samples.slice(quarter, 2 * quarter)),
    late: median(samples.slice(3 * quarter)),
  };
}

/** Median, NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Random numbers in [0, 1): mulberry32. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
