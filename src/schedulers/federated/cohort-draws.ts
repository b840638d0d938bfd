import { distinct, type Partition } from '../../data/index.ts';
import { createRng } from '../../tensor/index.ts';

/** A client of a cohort and its examples. */
export interface DrawnClient {
  readonly client: number;
  readonly examples: Int32Array;
}

/** What cohorts are drawn from. */
export interface CohortDrawsOptions {
  readonly partition: Partition;
  readonly seed: number;
  /** Clients of a cohort, at most. */
  readonly cohort: number;
}

/**
 * Draws who is asked in a round: a function of (seed, round) alone, so that the next round's can be drawn while threads are at work
 * on this one's. At the beginning of a round they would wait for it.
 */
export class CohortDraws {
  readonly #options: CohortDrawsOptions;
  #ahead: { readonly round: number; readonly clients: readonly DrawnClient[] } | null = null;

  constructor(options: CohortDrawsOptions) {
    this.#options = options;
  }

  /** A round's cohort, by client. `chosen`: who it is, where that is not drawn. */
  of(round: number, chosen?: readonly number[]): readonly DrawnClient[] {
    if (chosen) return this.#with(chosen);
    return this.#ahead?.round === round ? this.#ahead.clients : this.#drawn(round);
  }

  /** Draws a round's cohort ahead of its turn. */
  prepare(round: number): void {
    this.#ahead = { round, clients: this.#drawn(round) };
  }

  #drawn(round: number): readonly DrawnClient[] {
    const { partition, seed, cohort } = this.#options;
    const rng = createRng(seed).fork('cohort', round);
    return this.#with(distinct(rng, Math.min(cohort, partition.clients), partition.clients));
  }

  #with(clients: ArrayLike<number>): readonly DrawnClient[] {
    const { partition } = this.#options;
    return Array.from(clients)
      .sort((a, b) => a - b)
      .map((client) => ({ client, examples: partition.examples(client).slice() }));
  }
}
