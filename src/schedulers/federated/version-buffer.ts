import type { AsyncServer } from './async-server.ts';
import type { ClientReport, SharedStart } from './fit-task.ts';
import type { Dropped } from './simulation.ts';
import { addUpdate } from './strategy.ts';

/** What a client gave, and what it began with. */
export interface VersionAnswer {
  readonly update: Float32Array;
  readonly report: ClientReport;
  readonly start: SharedStart;
  /** Versions that were made while it trained. */
  readonly staleness: number;
}

/** A new version of the parameters, whoever trained for it. */
export interface NewVersion {
  /** Number of the version, from 1. */
  readonly version: number;
  readonly reports: readonly ClientReport[];
  readonly dropped: readonly Dropped[];
  /** Clients that were sent parameters meanwhile. */
  readonly begun: number;
  /** Mean number of versions that passed while the updates were made. */
  readonly staleness: number;
  readonly loss: number;
}

/** Answers that make the next version of the parameters together, added up in the order in which they come. */
export class VersionBuffer {
  readonly #server: AsyncServer;
  readonly #params: Float32Array;
  readonly #state: Float32Array;
  readonly #mean: Float32Array;
  readonly #reports: ClientReport[] = [];
  #staleness = 0;

  /** `params` and `state` are the newest version, and become the next one. */
  constructor(server: AsyncServer, params: Float32Array, state: Float32Array) {
    this.#server = server;
    this.#params = params;
    this.#state = state;
    this.#mean = new Float32Array(params.length + state.length);
  }

  /** Answers so far. */
  get answers(): number {
    return this.#reports.length;
  }

  /** Whether there are enough of them. */
  get full(): boolean {
    return this.answers >= this.#server.buffer;
  }

  /** Takes an answer in. */
  add({ update, report, start, staleness }: VersionAnswer): void {
    this.#reports.push(report);
    this.#staleness += staleness;
    const share = this.#server.weight(staleness) / this.#server.buffer;
    const mean = this.#mean;
    if (this.#server.mixes === 'update') {
      for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + share * (update[i] as number);
      return;
    }
    const [first, firstState] = [new Float32Array(start.params), new Float32Array(start.state)];
    const size = this.#params.length;
    for (let i = 0; i < mean.length; i++) {
      const theirs = ((i < size ? first[i] : firstState[i - size]) as number) + (update[i] as number);
      const ours = (i < size ? this.#params[i] : this.#state[i - size]) as number;
      mean[i] = (mean[i] as number) + share * (theirs - ours);
    }
  }

  /** Makes the next version of the parameters, in place, and says what came of it. */
  apply(): Pick<NewVersion, 'reports' | 'staleness' | 'loss'> {
    addUpdate(this.#mean, this.#params, this.#state, this.#server.serverLr);
    const examples = this.#reports.reduce((sum, report) => sum + report.examples, 0);
    return {
      reports: this.#reports,
      staleness: this.#staleness / this.answers,
      loss: this.#reports.reduce((sum, report) => sum + report.loss * report.examples, 0) / examples,
    };
  }
}

/** What an answer must not be. */
export interface AnswerBounds {
  /** Versions after which an update is too old to be used; null or absent for no bound. */
  readonly maxStaleness?: number | null;
  /** Norm above which an update is not used and its client named; null or absent for no bound. */
  readonly maxNorm?: number | null;
}

/** Why an answer is not used; null if it is. */
export function refusedAnswer(
  report: ClientReport,
  staleness: number,
  { maxNorm = null, maxStaleness = null }: AnswerBounds,
): string | null {
  if (report.problem !== null) return report.problem;
  if (maxNorm !== null && report.norm > maxNorm)
    return `the norm of its update is ${report.norm.toPrecision(4)}, the bound ${maxNorm}`;
  if (maxStaleness !== null && staleness > maxStaleness)
    return `it began ${staleness} versions ago, the bound is ${maxStaleness}`;
  return null;
}
