import { SourceGone } from '../cluster/errors.ts';
import type { ResolvedConfig } from '../config/index.ts';
import type { CheckpointedEvent } from '../events.ts';
import {
  CheckpointError,
  type CheckpointInfo,
  type CheckpointStore,
  type MetricsLog,
  type StoredCheckpoint,
} from '../run/index.ts';
import type { WorkersSnapshot } from './workers.ts';

/** What became of a checkpoint that was written while training went on. */
export type WriterEvent = CheckpointedEvent | { readonly type: 'warning'; readonly message: string };

/** What a writer needs. */
export interface WriterParts {
  readonly store: CheckpointStore;
  readonly log: MetricsLog;
  readonly train: Pick<ResolvedConfig['train'], 'keep_last' | 'keep_every' | 'checkpoint_on_error'>;
  /** The newest checkpoint of before, or null. */
  readonly from: { readonly step: number; readonly path: string } | null;
}

/**
 * Writes checkpoints while training goes on, one at a time. What became of them is told by `events`. One that cannot be
 * written costs nothing but itself: those before it stay.
 */
export class CheckpointWriter {
  readonly #parts: WriterParts;
  #last: { readonly step: number; readonly path: string } | null;
  #writing: { readonly step: number; readonly done: Promise<void> } | null = null;
  #failed: { readonly step: number; readonly error: CheckpointError } | null = null;
  #lost = false;
  #events: WriterEvent[] = [];

  constructor(parts: WriterParts) {
    this.#parts = parts;
    this.#last = parts.from;
  }

  /** The newest checkpoint that is safe. */
  get last(): { readonly step: number; readonly path: string } | null {
    return this.#last;
  }

  /** Completed steps of the checkpoint that is being written, or null. */
  get writing(): number | null {
    return this.#writing?.step ?? null;
  }

  /** Whether the newest copy was lost before it was written, so that another should be taken as soon as there can be one. */
  get lost(): boolean {
    return this.#lost;
  }

  /**
   * Begins to write and returns at once; the copy is let go of when it is done. `began` is `performance.now()` when the
   * checkpoint was asked for, `waitedMs` what training has waited for it.
   */
  start(
    snapshot: WorkersSnapshot,
    info: Omit<CheckpointInfo, 'step'>,
    times: { readonly began: number; readonly waitedMs: number },
  ): void {
    if (this.#writing) {
      snapshot.release();
      throw new Error(`the checkpoint of step ${this.#writing.step} is still being written: wait for idle() first`);
    }
    const { step } = snapshot;
    this.#lost = false;
    const done = this.#write(snapshot, { ...info, step })
      .then(
        ({ path, bytes }) => {
          this.#last = { step, path };
          this.#failed = null;
          const { began, waitedMs: waitMs } = times;
          this.#events.push({ type: 'checkpointed', step, path, bytes, ms: performance.now() - began, waitMs });
        },
        (error: unknown) => this.#fail(step, error),
      )
      .finally(() => {
        this.#writing = null;
      });
    this.#writing = { step, done };
  }

  /** Waits until nothing is being written. Never rejects: what went wrong is told by `events` and `failure`. */
  async idle(): Promise<void> {
    await this.#writing?.done;
  }

  /** What has happened since the last call, in order. */
  events(): WriterEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Why the newest attempt failed, if it did. The error carries the last good checkpoint's folder. */
  get failure(): CheckpointError | null {
    return this.#failed?.error ?? null;
  }

  async #write(snapshot: WorkersSnapshot, info: CheckpointInfo): Promise<StoredCheckpoint> {
    const { store, log, train } = this.#parts;
    try {
      // The losses that lead up to a checkpoint must not be lost once it is there.
      await log.flush();
      const stored = await store.save(info, (folder) => snapshot.write(folder));
      await store.prune({ last: train.keep_last, every: train.keep_every });
      return stored;
    } finally {
      snapshot.release();
    }
  }

  #fail(step: number, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    const kept = this.#last === null ? 'there is none before it' : `that of step ${this.#last.step} is kept`;
    const what = `the checkpoint of step ${step} could not be written (${kept}): ${reason}`;
    if (isGone(error)) {
      // Nothing is wrong with where it is written to.
      this.#lost = true;
      this.#events.push({ type: 'warning', message: `${what}; another is written at once` });
      return;
    }
    this.#failed = { step, error: new CheckpointError(what, { cause: error }) };
    if (this.#last) this.#failed.error.checkpoint = this.#last.path;
    const next = this.#parts.train.checkpoint_on_error === 'continue' ? 'training goes on' : 'the run ends';
    this.#events.push({ type: 'warning', message: `${what}; ${next} (train.checkpoint_on_error)` });
  }
}

/** Whether an error comes of ranks that were lost with what was being copied from them. */
function isGone(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) if (at instanceof SourceGone) return true;
  return false;
}
