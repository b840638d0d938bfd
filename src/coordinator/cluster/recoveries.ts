import type { RunEvent } from '../events.ts';
import { ClusterError } from './errors.ts';
import type { Formed } from './generation.ts';
import type { Holdings } from './holdings.ts';
import type { Loss } from './inquest.ts';
import type { Membership } from './membership.ts';
import type { RecoveryClock } from './recovery-clock.ts';

/** What it keeps up to date. */
export interface RecoveriesOptions {
  readonly membership: Membership;
  readonly holdings: Holdings;
  readonly clock: RecoveryClock;
  /** Recoveries that a run may need. */
  readonly maxRecoveries: number;
  readonly emit: (event: RunEvent) => void;
}

/** Counts the recoveries of a run, and tells what was lost in each. */
export class Recoveries {
  readonly #options: RecoveriesOptions;
  #count = 0;

  constructor(options: RecoveriesOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#count;
  }

  /** These agents are lost. Returns why the next generation is formed. @throws ClusterError as `begin` */
  lost({ seats }: Formed, gone: ReadonlyMap<string, Loss>): string {
    const { membership, holdings, emit } = this.#options;
    const now = performance.now();
    const reasons: string[] = [];
    for (const [agent, { reason, at }] of gone) {
      const ranks = [...seats.keys()].filter((rank) => seats[rank]?.agent === agent);
      membership.giveUp(agent);
      holdings.forget(agent);
      if (ranks.length === 0) continue;
      reasons.push(`agent ${agent} was lost (${reason})`);
      emit({ type: 'lost', agent, ranks, reason, detectedMs: now - at });
    }
    const why = reasons[0] ?? 'an agent was lost';
    this.begin(why, Math.min(...[...gone.values()].map(({ at }) => at)));
    return why;
  }

  /**
   * The run has to recover; the first sign of trouble was at `firstSign` (`performance.now()`).
   * @throws ClusterError if it had to too often
   */
  begin(reason: string, firstSign: number): void {
    const { clock, maxRecoveries } = this.#options;
    clock.begin(firstSign);
    this.#count += 1;
    if (this.#count > maxRecoveries)
      throw new ClusterError(
        `the run had to recover ${this.#count} times, and recovery.max_recoveries is ${maxRecoveries}; the last time because ${reason}`,
      );
  }
}
