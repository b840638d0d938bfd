// All-reduce of 16 MB in the canonical tree over 2 and 4 worker threads, beside what the memory allows in the same run.
//   npm run bench -- comm/all-reduce [--runs=40] [--mb=16]
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from 'node:worker_threads';
import { allReduceTree, barrier, createLocalLinks, createLocalTransport } from '../../src/comm/index.ts';
import { timing } from '../engine/stats.ts';
import { flag } from '../scaling/table.ts';

/** Targets in milliseconds by number of workers, on two cores. */
const TARGETS: Readonly<Record<number, number>> = { 2: 5, 4: 9 };

interface Start {
  readonly rank: number;
  readonly ports: readonly (MessagePort | null)[];
  readonly elements: number;
  readonly runs: number;
}

/** Milliseconds of each repetition on one rank: all-reduces, and copies of as much memory by all ranks at once. */
interface Times {
  readonly reduce: readonly number[];
  readonly copy: readonly number[];
  /** CPU time of the thread in the all-reduces, in milliseconds: what a busy box does not stretch. Linux only. */
  readonly cpu: readonly number[];
}

/** CPU time that this thread has used, in milliseconds. */
function cpuMs(): number {
  if (process.platform !== 'linux') return Number.NaN;
  return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[0]) / 1e6;
}

async function work({ rank, ports, elements, runs }: Start): Promise<Times> {
  const transport = createLocalTransport({ rank, ports });
  const group = { id: 'all', ranks: ports.map((_, i) => i) };
  const ranges = group.ranks.map((i) => ({ start: i, end: i + 1 }));
  const gradient = new Float32Array(elements);
  const times = { reduce: [] as number[], copy: [] as number[], cpu: [] as number[] };
  for (let i = 0; i < runs; i++) {
    gradient.fill(rank + 1);
    const nodes = [{ range: { start: rank, end: rank + 1 }, value: [gradient] }];
    await barrier(transport, group, `begin/${i}`);
    const cpu = cpuMs();
    const start = performance.now();
    const [sums] = await allReduceTree(transport, group, 'sum', {
      leaves: ports.length,
      ranges,
      units: [{ sizes: [elements], nodes }],
    });
    times.reduce.push(performance.now() - start);
    times.cpu.push(cpuMs() - cpu);
    const expected = (ports.length * (ports.length + 1)) / 2;
    for (let at = 0; at < elements; at += 4099)
      if (sums?.[0]?.[at] !== expected) throw new Error(`element ${at} is ${sums?.[0]?.[at]}, not ${expected}`);
  }
  const other = new Float32Array(elements);
  for (let i = 0; i < runs; i++) {
    await barrier(transport, group, `copy/${i}`);
    const start = performance.now();
    other.set(gradient);
    times.copy.push(performance.now() - start);
  }
  await transport.close();
  return times;
}

async function measure(workers: number, elements: number, runs: number): Promise<Times> {
  const links = createLocalLinks(workers);
  const threads = links.map(({ ports }, rank) => {
    const start: Start = { rank, ports, elements, runs };
    return new Worker(fileURLToPath(import.meta.url), {
      workerData: start,
      transferList: ports.filter((port) => port !== null),
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
  // A repetition takes as long as the slowest rank; the first ones warm up.
  const slowest = (of: keyof Times) =>
    (all[0] as Times)[of].map((_, i) => Math.max(...all.map((times) => times[of][i] as number))).slice(5);
  const together = (all[0] as Times).cpu.map((_, i) => all.reduce((sum, { cpu }) => sum + (cpu[i] as number), 0));
  return { reduce: slowest('reduce'), copy: slowest('copy'), cpu: together.slice(5) };
}

if (isMainThread) {
  const megabytes = flag('mb', 16);
  const elements = megabytes * 2 ** 18;
  for (const workers of [2, 4]) {
    const { reduce, copy, cpu } = await measure(workers, elements, flag('runs', 40) + 5);
    const [took, copied] = [timing(reduce), timing(copy)];
    // Each rank takes in (N - 1)/N of the others' numbers and adds them, and writes (N - 1)/N of the sums.
    const bound = (2 * (workers - 1) * copied.min) / workers;
    const target = TARGETS[workers] as number;
    const cores = Math.min(workers, availableParallelism());
    const work = timing(cpu);
    const verdict = megabytes === 16 ? `  target <= ${target} ms: ${took.median <= target ? 'met' : 'NOT met'}` : '';
    console.log(
      `${workers} workers, ${megabytes} MB: median ${took.median.toFixed(2)} ms, best ${took.min.toFixed(2)}${verdict}; ` +
        `all at once copy as much in ${copied.min.toFixed(2)} ms, so memory allows ${bound.toFixed(2)} ms: ` +
        `best / bound ${(took.min / bound).toFixed(2)}; CPU of all workers: median ${work.median.toFixed(2)} ms, ` +
        `best ${work.min.toFixed(2)}, so ${cores} free cores take ${(work.median / cores).toFixed(2)} ms at least`,
    );
  }
} else parentPort?.postMessage(await work(workerData as Start));
