import { createProgress, PROGRESS_FIELDS } from '../../worker/index.ts';
import type { LastSeen } from '../failure.ts';

const ABORT = PROGRESS_FIELDS.indexOf('abort');

/** Prints instruction `index` of a rank's train (0) or evaluate (1) program. */
export type InstructionNames = (rank: number, mode: number, index: number) => string;

/**
 * Follows where each worker is through shared memory, so that it can be told even of a thread that is stuck in an
 * endless loop or inside native code.
 */
export class ProgressBoard {
  readonly buffers: readonly SharedArrayBuffer[];
  readonly #views: readonly Int32Array[];
  readonly #counts: number[];
  readonly #since: number[];
  readonly #names: InstructionNames;

  constructor(world: number, names: InstructionNames, now: number) {
    this.buffers = Array.from({ length: world }, createProgress);
    this.#views = this.buffers.map((buffer) => new Int32Array(buffer));
    this.#counts = this.#views.map(() => -1);
    this.#since = this.#views.map(() => now);
    this.#names = names;
  }

  /** Makes every rank give up at its next instruction. */
  abort(): void {
    for (const view of this.#views) Atomics.store(view, ABORT, 1);
  }

  /** Notes that a rank was heard of. */
  touch(rank: number, now: number): void {
    this.#since[rank] = now;
  }

  /** Looks at every rank; those that have begun another instruction count as heard of. */
  look(now: number): LastSeen[] {
    return this.#views.map((view, rank) => {
      const [step, mode, instruction, count] = [0, 1, 2, 3].map((i) => Atomics.load(view, i)) as [
        number,
        number,
        number,
        number,
      ];
      if (count !== this.#counts[rank]) {
        this.#counts[rank] = count;
        this.#since[rank] = now;
      }
      return {
        rank,
        doing: this.#describe(rank, step, mode, instruction),
        sinceMs: now - (this.#since[rank] as number),
      };
    });
  }

  #describe(rank: number, step: number, mode: number, instruction: number): string {
    if (step < 0) return 'starting';
    const unit = mode === 1 ? `evaluation round ${step}` : `step ${step}`;
    return instruction < 0 ? `between steps, after ${unit}` : `${unit}, ${this.#names(rank, mode, instruction)}`;
  }
}
