import type { MessagePort } from 'node:worker_threads';
import { createLocalTransport } from '../../comm/index.ts';
import { openDataset } from '../../data/index.ts';
import { createEngine, type Engine, type EngineOptions } from '../../engine/index.ts';
import { worldSize } from '../../plan/index.ts';
import { bytesOf, type HostTensor, zeros } from '../../tensor/index.ts';
import { CompileCache } from '../compile-cache.ts';
import { creditsFor } from '../credits.ts';
import { failureReport } from '../failure.ts';
import { Position } from '../position.ts';
import type { WorkerEvent, WorkerJob } from '../protocol.ts';
import { createRank, type HeldState, modelOf, optimizerOf, type RankOverrides } from '../rank.ts';
import { serve } from '../serve.ts';
import { layOut, tensorBytes } from '../snapshot-layout.ts';
import { trainingObjective } from '../training-objective.ts';
import type { InitialSource } from '../weights.ts';
import { Arrivals } from './arrivals.ts';
import { type Left, leftBy, NOTHING } from './left.ts';
import type { PlacedTensor } from './restore.ts';
import { snapshotName } from './snapshot-name.ts';

/** Tensors that a rank begins with: where each lies in shared memory, or is about to. All are float32. */
export interface InitialTensors {
  /** Completed steps. */
  readonly step: number;
  readonly tensors: readonly PlacedTensor[];
  /** Brings `Arrival`s: how much of the pieces of memory is there. */
  readonly arrived: MessagePort;
}

/** What an agent's main thread gives to one of its compute threads: a rank to be. */
export interface ComputeJob {
  readonly id: number;
  readonly generation: number;
  readonly job: WorkerJob;
  /** To the other ranks, as for the local transport. */
  readonly ports: readonly (MessagePort | null)[];
  /** Commands come and events go through here; when it closes, the rank ends. */
  readonly control: MessagePort;
  readonly initial: InitialTensors | null;
  readonly snapshotEvery: number;
}

/** What an agent's main thread gives to an idle compute thread: ranks that it may become. */
export interface ComputeWarm {
  readonly warm: readonly WorkerJob[];
}

/** What a compute thread says of itself: it is free again. */
export interface ComputeIdle {
  readonly id: number;
}

/** And of how many ranks that it may become it has compiled everything. */
export interface ComputeWarmed {
  readonly warmed: number;
  /** Memory for what the last of them would fetch to begin with, written to once: fresh pages take their time. */
  readonly memory: SharedArrayBuffer | null;
}

/**
 * Runs ranks one after another in this thread, as they come through `parent`. The engine with everything that it has
 * compiled, and the model, stay from one to the next. Returns at once; the thread ends when the other end is closed.
 */
export function serveJobs(parent: Pick<MessagePort, 'on' | 'postMessage'>): void {
  const kept = new Kept();
  let last = Promise.resolve();
  let waiting = 0;
  parent.on('message', (next: ComputeJob | ComputeWarm) => {
    if ('warm' in next) {
      last = last.then(async () => {
        // A rank to be does not wait for ranks that may be.
        let warmed = 0;
        let memory: SharedArrayBuffer | null = null;
        for (const job of next.warm) {
          if (waiting > 0) break;
          memory = await warm(job, kept);
          if (memory) warmed += 1;
        }
        parent.postMessage({ warmed, memory } satisfies ComputeWarmed);
      });
      return;
    }
    waiting += 1;
    last = last.then(async () => {
      waiting -= 1;
      await run(next, kept);
      parent.postMessage({ id: next.id } satisfies ComputeIdle);
    });
  });
}

/**
 * Compiles what a rank needs, so that it begins sooner when this thread becomes it. Returns memory for its tensors to be
 * fetched into, or null if it cannot be that rank.
 */
async function warm(job: WorkerJob, kept: Kept): Promise<SharedArrayBuffer | null> {
  const ports = new Array<null>(worldSize(job.train.mesh)).fill(null);
  const transport = createLocalTransport({ rank: job.rank, ports, deadlineMs: job.deadlineMs });
  const initial: InitialSource = { step: 0, read: async (_, shape) => writtenZeros(shape) };
  try {
    const parts = await kept.for(job);
    const rank = await createRank(job, transport, { ...parts, initial: { ...initial, ...kept.take().again } });
    const { tensors } = rank.held();
    kept.leave({ tensors, step: null }, 0, job.rank);
    await rank.dispose();
    return memoryFor([...tensors.values()].map(({ shape }) => shape));
  } catch {
    // Whatever is wrong with it will be told when the rank is to begin in earnest.
    return null;
  } finally {
    await transport.close();
  }
}

/** Zeros whose pages are there: of memory that nobody has written to they are not. */
function writtenZeros(shape: readonly number[]): HostTensor {
  const tensor = zeros('float32', shape);
  bytesOf(tensor.data).fill(0);
  return tensor;
}

/** Shared memory of the size of a snapshot's tensors, written to. */
function memoryFor(shapes: readonly (readonly number[])[]): SharedArrayBuffer {
  const { offsets } = layOut(shapes);
  const bytes = (offsets.at(-1) ?? 0) + tensorBytes(shapes.at(-1) ?? [0]);
  const memory = new SharedArrayBuffer(bytes);
  new Uint8Array(memory).fill(0);
  return memory;
}

async function run(next: ComputeJob, kept: Kept): Promise<void> {
  const { job, ports, control, initial, snapshotEvery, generation } = next;
  const { rank, deadlineMs } = job;
  const transport = createLocalTransport({ rank, ports, deadlineMs, credits: creditsFor(job.train) });
  let overrides: RankOverrides;
  try {
    const parts = await kept.for(job);
    const left = kept.take();
    overrides = { ...parts, ...(initial ? { initial: reader(initial, left) } : {}) };
  } catch (error) {
    const report = failureReport(rank, error, new Position(undefined));
    control.postMessage({ type: 'failed', report } satisfies WorkerEvent);
    await transport.close();
    control.close();
    return;
  }
  await serve(job, transport, control, overrides, {
    snapshotEvery,
    kept: initial !== null,
    leaves: (held) => kept.leave(held, generation, rank),
  });
}

/** What costs time to make and serves every generation of a run alike. */
class Kept {
  #engine: { readonly key: string; readonly engine: Engine } | null = null;
  #parts: { readonly key: string; readonly parts: RankOverrides } | null = null;
  #left: Left = NOTHING;

  /** A rank has ended: its tensors are there for the next one. */
  leave({ step, tensors }: HeldState, generation: number, rank: number): void {
    this.#left = leftBy(tensors, step === null ? null : snapshotName(generation, rank, step));
  }

  /** What the rank before has left, once. */
  take(): Left {
    const left = this.#left;
    this.#left = NOTHING;
    return left;
  }

  async for(job: WorkerJob): Promise<RankOverrides> {
    const engine = await this.#engineFor(job.engine);
    const { model, optim, totalSteps, data, objective } = job;
    const key = JSON.stringify([model, optim, totalSteps, data.info, objective]);
    const dataset = openDataset(data);
    if (this.#parts?.key !== key) {
      const changes = objective ? trainingObjective(objective) : null;
      const parts = { model: await modelOf(job, dataset, changes), optimizer: optimizerOf(job, changes) };
      this.#parts = { key, parts: { ...parts, compiled: new CompileCache() } };
    }
    return { ...this.#parts.parts, engine, dataset };
  }

  async #engineFor(options: EngineOptions): Promise<Engine> {
    const key = JSON.stringify(options);
    if (this.#engine?.key === key) return this.#engine.engine;
    await this.#engine?.engine.dispose();
    this.#engine = null;
    // What was compiled went with the engine, and so did tensors.
    this.#parts = null;
    this.#left = NOTHING;
    const engine = await createEngine(options);
    this.#engine = { key, engine };
    return engine;
  }
}

/** Hands out each tensor as soon as it is here; those that the thread has itself it hands out as they are. */
function reader({ step, tensors, arrived }: InitialTensors, left: Left): InitialSource {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const arrivals = new Arrivals(arrived);
  return {
    step,
    inPlace: (name, shape) => left.same(byName.get(name)?.blob ?? null, name, shape),
    has: (name) => byName.has(name),
    async read(name: string, shape: readonly number[]): Promise<HostTensor> {
      const found = byName.get(name);
      if (!found)
        throw new Error(`the coordinator named no source of "${name}" [${shape}] for step ${step}: restart the run`);
      if (String(found.shape) !== String(shape))
        throw new Error(`the source of "${name}" has shape [${found.shape}], but the model wants [${shape}]`);
      const size = shape.reduce((product, dim) => product * dim, 1);
      if (found.piece !== null) await arrivals.until(found.piece, found.offset + 4 * size);
      return { dtype: 'float32', shape, data: new Float32Array(found.buffer, found.offset, size) };
    },
    memory: left.again.memory,
    done: () => {
      left.again.done?.();
      arrivals.close();
    },
  };
}
