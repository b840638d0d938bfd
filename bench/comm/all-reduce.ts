// All-reduce of 16 MB in the canonical tree over 2 and 4 worker threads, beside what the memory allows in the same run.
//   npm run bench -- comm/all-reduce [--runs=40] [--warmup=80] [--mb=16] [--patience=SECONDS] [--messages=1]
// The first ones (warmup) do not count: a training run makes thousands, and V8 compiles what the first ones run. With --messages=1 the ranks send messages, as if they had no memory in common.
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  allReduceTree,
  barrier,
  createLocalLinks,
  createLocalTransport,
  type LocalLinks,
} from '../../src/comm/index.ts';
import { timing } from '../engine/stats.ts';
import { busySeconds, DISTURBED, quiet } from '../scaling/quiet.ts';
import { flag } from '../scaling/table.ts';

/** Repetitions that do not count. */
const WARMUP = flag('warmup', 80);

/** Targets in milliseconds by number of workers, on two cores. */
const TARGETS: Readonly<Record<number, number>> = { 2: 5, 4: 9 };

interface Start {
  readonly rank: number;
  readonly links: LocalLinks;
  readonly elements: number;
  readonly runs: number;
  readonly byMessages: boolean;
}

/** When something began and ended, in milliseconds of a clock that all threads share. */
type Span = readonly [began: number, ended: number];

/** Each repetition on one rank: all-reduces, and copies of as much memory by all ranks at once. */
interface Times {
  readonly reduce: readonly Span[];
  readonly copy: readonly Span[];
  /** CPU time of the thread in the all-reduces, in milliseconds: what a busy box does not stretch. Linux only. */
  readonly cpu: readonly number[];
}

/** CPU time that this thread has used, in milliseconds. */
function cpuMs(): number {
  if (process.platform !== 'linux') return Number.NaN;
  return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[0]) / 1e6;
}

const now = () => Number(process.hrtime.bigint()) / 1e6;

async function work({ rank, links, elements, runs, byMessages }: Start): Promise<Times> {
  const transport = createLocalTransport({ rank, ports: links.ports, arena: byMessages ? null : links.arena });
  const group = { id: 'all', ranks: links.ports.map((_, i) => i) };
  const ranges = group.ranks.map((i) => ({ start: i, end: i + 1 }));
  const gradient = new Float32Array(elements);
  const other = new Float32Array(elements);
  const times = { reduce: [] as Span[], copy: [] as Span[], cpu: [] as number[] };
  for (let i = 0; i < runs; i++) {
    gradient.fill(rank + 1);
    const nodes = [{ range: { start: rank, end: rank + 1 }, value: [gradient] }];
    await barrier(transport, group, `begin/${i}`);
    const cpu = cpuMs();
    const start = now();
    const [sums] = await allReduceTree(transport, group, 'sum', {
      leaves: group.ranks.length,
      ranges,
      units: [{ sizes: [elements], nodes }],
    });
    times.reduce.push([start, now()]);
    times.cpu.push(cpuMs() - cpu);
    const expected = (group.ranks.length * (group.ranks.length + 1)) / 2;
    for (let at = 0; at < elements; at += 4099)
      if (sums?.[0]?.[at] !== expected) throw new Error(`element ${at} is ${sums?.[0]?.[at]}, not ${expected}`);
    // In turns, so that whatever else happens to the machine's memory happens to both.
    await barrier(transport, group, `copy/${i}`);
    const copying = now();
    other.set(gradient);
    times.copy.push([copying, now()]);
  }
  await transport.close();
  return times;
}

/** What all ranks together took for each repetition, and how many cores other processes kept busy meanwhile. */
interface Measured {
  /** Milliseconds from the moment the first rank began to the one the last had ended. */
  readonly reduce: readonly number[];
  readonly copy: readonly number[];
  /** CPU milliseconds of all ranks. */
  readonly cpu: readonly number[];
  readonly others: number;
}

async function measure(workers: number, elements: number, runs: number): Promise<Measured> {
  const [since, busy, own] = [performance.now(), busySeconds(), process.cpuUsage()];
  const threads = createLocalLinks(workers).map((links, rank) => {
    const start: Start = { rank, links, elements, runs, byMessages: flag('messages', 0) === 1 };
    return new Worker(fileURLToPath(import.meta.url), {
      workerData: start,
      transferList: links.ports.filter((port) => port !== null),
    });
  });
  const all = await Promise.all(
    threads.map(
      (thread) =>
        new Promise<Times>((resolve, reject) => {
          thread.once('message', resolve);
          thread.once('error', reject);
        }),
    ),
  );
  await Promise.all(threads.map((thread) => thread.terminate()));
  const { user, system } = process.cpuUsage(own);
  const others = (1000 * Math.max(0, busySeconds() - busy - (user + system) / 1e6)) / (performance.now() - since);
  const whole = (of: 'reduce' | 'copy') =>
    (all[0] as Times)[of]
      .map((_, i) => all.map((times) => times[of][i] as Span))
      .map((spans) => Math.max(...spans.map(([, ended]) => ended)) - Math.min(...spans.map(([began]) => began)))
      .slice(WARMUP);
  const together = (all[0] as Times).cpu.map((_, i) => all.reduce((sum, { cpu }) => sum + (cpu[i] as number), 0));
  return { reduce: whole('reduce'), copy: whole('copy'), cpu: together.slice(WARMUP), others };
}

if (isMainThread) {
  const megabytes = flag('mb', 16);
  const elements = megabytes * 2 ** 18;
  const until = performance.now() + flag('patience', 0) * 1000;
  for (const workers of [2, 4]) {
    let measured: Measured;
    do {
      await quiet(until);
      measured = await measure(workers, elements, flag('runs', 40) + WARMUP);
    } while (measured.others > DISTURBED && performance.now() < until);
    const { reduce, copy, cpu, others } = measured;
    const [took, copied] = [timing(reduce), timing(copy)];
    // Each rank takes in (N - 1)/N of the others' numbers and adds them, and writes (N - 1)/N of the sums.
    const bound = (time: number) => (2 * (workers - 1) * time) / workers;
    const target = TARGETS[workers] as number;
    const cores = Math.min(workers, availableParallelism());
    const work = timing(cpu);
    const verdict = megabytes === 16 ? `  target <= ${target} ms: ${took.median <= target ? 'met' : 'NOT met'}` : '';
    console.log(
      `${workers} workers, ${megabytes} MB: median ${took.median.toFixed(2)} ms, best ${took.min.toFixed(2)}${verdict}; ` +
        `all at once copy as much in ${copied.median.toFixed(2)} and ${copied.min.toFixed(2)} ms, so memory allows ` +
        `${bound(copied.median).toFixed(2)} and ${bound(copied.min).toFixed(2)}: ` +
        `ratios ${(took.median / bound(copied.median)).toFixed(2)} and ${(took.min / bound(copied.min)).toFixed(2)}; ` +
        `CPU of all workers: median ${work.median.toFixed(2)} ms, ` +
        `best ${work.min.toFixed(2)}, so ${cores} free cores take ${(work.median / cores).toFixed(2)} ms at least; ` +
        `others took ${others.toFixed(2)} cores`,
    );
  }
} else parentPort?.postMessage(await work(workerData as Start));
