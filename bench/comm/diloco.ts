// DiLoCo with int8 against synchronous training, over a link of 100 Mbit/s and 20 ms: two workers, a direct link whose
// connections all pass a shaping proxy. Both train the same model from the same seed; DiLoCo goes on, round by round, until
// its averaged model has the validation loss that synchronous training ends with.
//   node bench/run.mjs comm/diloco [--steps=150] [--inner=50] [--mbit=100] [--ms=20] [--layers=4] [--dim=128]
// Takes about three minutes on two cores.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  compressionSchema,
  createRank,
  evaluationSize,
  finishMetrics,
  type LeafValues,
  listenTcp,
  optimSchema,
  type Program,
  prepareQuietly,
  type ResolvedModel,
  resolveConfig,
  type TcpAddress,
  type WorkerJob,
} from '../../src/index.ts';

// (This file runs from dist/bench/comm/.)
const PROXY = fileURLToPath(new URL('../../../test/chaos/fault-proxy-process.mjs', import.meta.url));
const SELF = fileURLToPath(import.meta.url);
const SECRET = 'only for a benchmark on one box';

type Ask =
  | { readonly connect: readonly TcpAddress[] }
  | { readonly step: number }
  | { readonly evaluate: number }
  | { readonly stop: true };

// ---- a worker: one rank, told what to do by the main thread

async function serveRank(port: MessagePort, job: WorkerJob): Promise<void> {
  const endpoint = await listenTcp({ rank: job.rank, world: job.train.mesh.data, job: 'diloco', secret: SECRET });
  port.postMessage(endpoint.address);
  const asked = (): Promise<Ask> => new Promise((resolve) => port.once('message', resolve));
  const first = await asked();
  if (!('connect' in first)) throw new Error('a rank is connected first');
  const transport = await endpoint.connect(first.connect);
  const rank = await createRank(job, transport);
  port.postMessage(null);
  for (let ask = await asked(); !('stop' in ask); ask = await asked()) {
    if ('step' in ask) port.postMessage(await rank.step(ask.step));
    else if ('evaluate' in ask) port.postMessage(await rank.evaluate('validation', ask.evaluate));
  }
  await transport.close();
  await rank.dispose();
}

// ---- the main thread

/** A proxy in front of a rank's address, and how many bytes it has forwarded. */
class ShapedLink {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(target: TcpAddress) {
    this.#child = spawn(process.execPath, [PROXY, JSON.stringify({ target })], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  async listening(): Promise<TcpAddress> {
    const { listening } = (await this.#line()) as { listening: { address: string; port: number } };
    return { host: listening.address, port: listening.port };
  }

  async set(settings: object): Promise<number> {
    this.#child.stdin?.write(`${JSON.stringify({ id: 1, ...settings })}\n`);
    const { counts } = (await this.#line()) as { counts: { bytes: number } };
    return counts.bytes;
  }

  end(): void {
    this.#child.kill();
  }

  async #line(): Promise<unknown> {
    return JSON.parse((await this.#lines.next()).value as string);
  }
}

/** The value of `--name=…`. */
function flag(name: string, otherwise: number): number {
  const given = process.argv.find((argument) => argument.startsWith(`--${name}=`));
  return given ? Number(given.slice(name.length + 3)) : otherwise;
}

interface Outcome {
  readonly steps: number;
  readonly loss: number;
  /** Of the steps alone. */
  readonly seconds: number;
  readonly bytes: number;
  /** What went through the proxies. */
  readonly wireBytes: number;
}

const REPLICAS = 2;
const EVALUATED = 24;

/** Trains until `done` says so of the validation loss after so many steps; it is asked every `every` steps. */
async function train(
  scheduler: object,
  codec: string,
  every: number,
  done: (steps: number, loss: number) => boolean,
): Promise<Outcome> {
  const config = resolveConfig({
    seed: 1,
    model: { name: 'transformer-lm', args: { layers: flag('layers', 4), dim: flag('dim', 128), heads: 4 } },
    data: { name: 'moby-dick', context: 64, tokenizer: { kind: 'char' } },
    batch: { global: 16, micro: 8 },
    optim: { name: 'adamw', lr: 2e-3, clip_norm: 1, schedule: { name: 'constant', warmup: 20 } },
    train: { steps: flag('steps', 150) },
    parallel: { data: REPLICAS, zero: 0 },
    engine: { threads: 1 },
    scheduler,
    comm: { compression: { gradients: codec } },
  });
  const prepared = await prepareQuietly(config);
  const { plan, data, engine, local } = prepared;
  const workers = plan.programs.map((program, rank) => {
    const job: WorkerJob = {
      runId: 'bench',
      rank,
      seed: config.seed,
      model: config.model as ResolvedModel,
      optim: config.optim,
      ...(local ? { outerOptim: optimSchema.parse(local.optim) } : {}),
      totalSteps: 100_000,
      data,
      engine,
      batch: config.batch,
      numerics: 'exact',
      remat: 'none',
      train: program,
      evaluate: plan.evaluate[rank] as Program,
      compression: compressionSchema.parse({ gradients: codec }),
      deadlineMs: 120_000,
      checkpoint: null,
      trace: false,
    };
    return new Worker(SELF, { workerData: job });
  });
  const answer = <T>(worker: Worker): Promise<T> =>
    new Promise((resolve, reject) => {
      worker.once('error', reject);
      worker.once('message', (message: T) => {
        worker.off('error', reject);
        resolve(message);
      });
    });
  const ask = <T>(message: Ask): Promise<T[]> =>
    Promise.all(
      workers.map((worker) => {
        worker.postMessage(message);
        return answer<T>(worker);
      }),
    );
  const proxies: ShapedLink[] = [];
  try {
    for (const address of await Promise.all(workers.map((worker) => answer<TcpAddress>(worker))))
      proxies.push(new ShapedLink(address));
    const addresses = await Promise.all(proxies.map((proxy) => proxy.listening()));
    // Both directions of a link, so half of the delay each way.
    const shape = { delayMs: flag('ms', 20) / 2, bytesPerSecond: (flag('mbit', 100) * 1e6) / 8 };
    for (const proxy of proxies) await proxy.set(shape);
    await ask({ connect: addresses });
    const evaluated = Math.min(EVALUATED, evaluationSize(prepared, 'validation'));
    let bytes = 0;
    let wireBytes = 0;
    let seconds = 0;
    for (let steps = 0; ; ) {
      const before = await Promise.all(proxies.map((proxy) => proxy.set({})));
      const start = performance.now();
      for (let i = 0; i < every; i++, steps++)
        for (const report of await ask<{ commBytes: number }>({ step: steps })) bytes += report.commBytes;
      seconds += (performance.now() - start) / 1000;
      const after = await Promise.all(proxies.map((proxy) => proxy.set({})));
      wireBytes += after.reduce((sum, count, i) => sum + count - (before[i] as number), 0);
      const metrics = await ask<Readonly<Record<string, LeafValues>>>({ evaluate: evaluated });
      const loss = finishMetrics(metrics, evaluated).loss as number;
      process.stderr.write(`  ${steps} steps, ${seconds.toFixed(0)} s, validation loss ${loss.toFixed(4)}\n`);
      if (done(steps, loss)) return { steps, loss, seconds, bytes, wireBytes };
    }
  } finally {
    for (const worker of workers) worker.postMessage({ stop: true });
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve))));
    for (const proxy of proxies) proxy.end();
  }
}

function row(name: string, { steps, loss, seconds, bytes, wireBytes }: Outcome): string {
  const mb = (count: number) => (count / 1e6).toFixed(2);
  return `| ${name} | ${steps} | ${loss.toFixed(4)} | ${seconds.toFixed(1)} | ${mb(bytes)} | ${mb(wireBytes)} |`;
}

async function main(): Promise<void> {
  const steps = flag('steps', 150);
  const inner = flag('inner', 50);
  process.stderr.write('synchronous\n');
  const sync = await train({ name: 'sync' }, 'none', steps, () => true);
  process.stderr.write(`DiLoCo, ${inner} inner steps, int8\n`);
  const local = await train(
    { name: 'local-sgd', inner_steps: inner },
    'int8',
    inner,
    (done, loss) => loss <= sync.loss || done >= 10 * steps,
  );
  console.log(`two workers, ${flag('mbit', 100)} Mbit/s, ${flag('ms', 20)} ms there and back`);
  console.log('| | steps | validation loss | s | MB of tensors | MB on the wire |');
  console.log('| --- | --- | --- | --- | --- | --- |');
  console.log(row('synchronous', sync));
  console.log(row(`DiLoCo, ${inner} inner steps, int8`, local));
  const fewer = sync.bytes / local.bytes;
  const quicker = sync.seconds / local.seconds;
  const reached = local.loss <= sync.loss;
  console.log(
    `${fewer.toFixed(0)}x fewer bytes (at least 50), ${quicker.toFixed(1)}x less wall time: ` +
      `${reached && fewer >= 50 && quicker > 1 ? 'met' : 'NOT met'}`,
  );
}

if (isMainThread) await main();
else await serveRank(parentPort as MessagePort, workerData as WorkerJob);
