import { type MessagePort, Worker } from 'node:worker_threads';
import { workerEntryUrl } from '../entry.ts';
import { PROGRESS_FIELDS, type WorkerEvent, type WorkerJob } from '../protocol.ts';
import type { ComputeIdle, ComputeJob, ComputeWarm, ComputeWarmed } from './compute.ts';

const ABORT = PROGRESS_FIELDS.indexOf('abort');

/** How patient an agent is with its threads, in milliseconds. */
export interface SlotPatience {
  /** A thread that has not let go of an aborted rank by then is replaced by a new one. */
  readonly letGoMs: number;
  /**
   * And is ended by force when this has passed too. A thread that is ended while native code runs in it takes the whole
   * process along, so this must be longer than any single call of the engine; what does not listen for so long is stuck
   * in JavaScript, where force is safe.
   */
  readonly forceMs: number;
}

const PATIENCE: SlotPatience = { letGoMs: 5000, forceMs: 30_000 };

/** A rank that runs in a slot's thread, seen from the main thread. */
export interface RunningRank {
  /** Makes it end at its next instruction or wait, whatever it is doing. */
  abort(): void;
  /** The thread is free, or was replaced. */
  readonly ended: Promise<void>;
}

/** What a rank needs, as `ComputeJob`, less its number. */
export type RankStart = Omit<ComputeJob, 'id'>;

interface Thread {
  readonly worker: Worker;
  readonly gone: Promise<void>;
  /** The rank that it runs, or runs to its end. */
  busy: { readonly id: number; readonly free: () => void; readonly ended: Promise<void> } | null;
}

/**
 * A slot of an agent: a compute thread that is kept from one rank to the next, so that what its engine has compiled is
 * used again.
 */
export class Slot {
  readonly index: number;
  readonly #patience: SlotPatience;
  readonly #log: (line: string) => void;
  #thread: Thread | null = null;
  readonly #retired = new Map<Thread, NodeJS.Timeout>();
  #jobs = 0;
  #spare: (memory: SharedArrayBuffer) => void = () => undefined;
  #closed = false;

  constructor(index: number, log: (line: string) => void, patience: Partial<SlotPatience> = {}) {
    this.index = index;
    this.#log = log;
    this.#patience = { ...PATIENCE, ...patience };
    // (Begins to load the engine before there is anything to do.)
    this.#thread = this.#spawn();
  }

  /** Resolves when the slot can take a rank: the one before has let go, or its thread was replaced. */
  get free(): Promise<void> {
    return this.#thread?.busy?.ended ?? Promise.resolve();
  }

  /**
   * Starts a rank. The rank before, if there was one, has been aborted; the thread comes to the new one when it has let go.
   * @param crashed called if the thread ends without having said why
   */
  start(start: RankStart, crashed: (error: Error) => void): RunningRank {
    if (this.#closed) throw new Error(`slot ${this.index} is closed`);
    if (this.#thread?.busy) this.#retire(this.#thread);
    this.#thread ??= this.#spawn();
    const thread = this.#thread;
    const id = this.#jobs++;
    let free: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => {
      free = resolve;
    });
    thread.busy = { id, free, ended };
    const onError = (error: Error) => crashed(error);
    const onExit = (code: number) => {
      if (!this.#closed && thread.busy?.id === id)
        crashed(
          Object.assign(new Error(`the compute thread exited with code ${code} without saying why`), {
            name: 'WorkerExit',
            stack: '',
          }),
        );
      free();
    };
    thread.worker.once('error', onError);
    thread.worker.once('exit', onExit);
    void ended.then(() => {
      thread.worker.off('error', onError);
      thread.worker.off('exit', onExit);
    });
    const { ports, control, initial } = start;
    const moved: MessagePort[] = [...ports.filter((port) => port !== null), control];
    if (initial) moved.push(initial.arrived);
    thread.worker.postMessage({ ...start, id } satisfies ComputeJob, moved);
    let timer: NodeJS.Timeout | null = null;
    const { progress } = start.job;
    return {
      ended,
      abort: () => {
        if (timer || thread.busy?.id !== id) return;
        if (progress) Atomics.store(new Int32Array(progress), ABORT, 1);
        timer = setTimeout(() => {
          if (thread.busy?.id === id) this.#retire(thread);
        }, this.#patience.letGoMs);
        void ended.then(() => clearTimeout(timer as NodeJS.Timeout));
      },
    };
  }

  /**
   * Lets the thread compile what these ranks would need, if it has nothing else to do.
   * @param spare is given memory for what such a rank would fetch
   */
  warm(jobs: readonly WorkerJob[], spare: (memory: SharedArrayBuffer) => void): void {
    if (this.#closed || this.#thread?.busy) return;
    this.#thread ??= this.#spawn();
    this.#spare = spare;
    this.#thread.worker.postMessage({ warm: jobs } satisfies ComputeWarm);
  }

  /** Ends all threads, by force those that do not end by themselves within `deadlineMs`. */
  async close(deadlineMs: number): Promise<void> {
    this.#closed = true;
    const threads = [...(this.#thread ? [this.#thread] : []), ...this.#retired.keys()];
    this.#thread = null;
    await Promise.all(threads.map((thread) => this.#end(thread, deadlineMs)));
    for (const timer of this.#retired.values()) clearTimeout(timer);
    this.#retired.clear();
  }

  async #end(thread: Thread, deadlineMs: number): Promise<void> {
    if (thread.busy) {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, deadlineMs);
      });
      await Promise.race([idle(thread), thread.gone, late]);
      clearTimeout(timer);
    }
    // An idle thread has no native code running.
    await thread.worker.terminate();
    await thread.gone;
  }

  /** Leaves a thread alone that does not let go, and ends it by force when even that does not help. */
  #retire(thread: Thread): void {
    if (this.#thread === thread) this.#thread = null;
    if (this.#retired.has(thread)) return;
    this.#log(
      `slot ${this.index}: its thread did not let go of its rank for ${this.#patience.letGoMs} ms; a new one takes its place`,
    );
    const end = () => {
      clearTimeout(this.#retired.get(thread));
      this.#retired.delete(thread);
      void thread.worker.terminate();
    };
    this.#retired.set(thread, setTimeout(end, this.#patience.forceMs));
    thread.busy?.free();
    // What it still does concerns nobody; when it has let go, it can be ended.
    thread.worker.on('message', end);
    if (!this.#closed) this.#thread ??= this.#spawn();
  }

  #spawn(): Thread {
    const worker = new Worker(workerEntryUrl(), { name: `plexus slot ${this.index}`, workerData: null });
    let ended: () => void = () => undefined;
    const gone = new Promise<void>((resolve) => {
      ended = resolve;
    });
    const thread: Thread = { worker, gone, busy: null };
    worker.on('message', (said: ComputeIdle | ComputeWarmed) => {
      if ('warmed' in said) {
        if (said.memory) this.#spare(said.memory);
        if (said.warmed > 0) this.#log(`slot ${this.index} has compiled what it needs to take over`);
        return;
      }
      if (thread.busy?.id !== said.id) return;
      const { free } = thread.busy;
      thread.busy = null;
      free();
    });
    // A crash with no rank to blame must not end the process.
    worker.on('error', (error) => this.#log(`slot ${this.index}: its thread failed: ${error.message}`));
    worker.on('exit', () => {
      if (this.#thread === thread) this.#thread = null;
      const timer = this.#retired.get(thread);
      if (timer) clearTimeout(timer);
      this.#retired.delete(thread);
      ended();
    });
    return thread;
  }
}

/** Resolves when a thread has said that it is free. */
function idle(thread: Thread): Promise<void> {
  return new Promise((resolve) => {
    thread.worker.on('message', () => {
      if (!thread.busy) resolve();
    });
    if (!thread.busy) resolve();
  });
}

/** An event of a rank that cannot report its own end. */
export function crashReport(rank: number, error: Error): WorkerEvent {
  const { name, message, stack = '' } = error;
  return {
    type: 'failed',
    report: {
      rank,
      path: null,
      instruction: null,
      microbatch: null,
      step: null,
      name,
      message,
      stack,
      secondary: false,
    },
  };
}
