import type { RunEvent } from '../events.ts';
import type { Agents } from './agents.ts';
import type { ConnectionWatch } from './connection-watch.ts';
import { enoughWorkers } from './enough-workers.ts';
import { type Formed, FormingFailed, type FormingTools, formGeneration } from './generation.ts';
import type { Holdings } from './holdings.ts';
import type { LeaderLock } from './leader-lock.ts';
import type { Membership } from './membership.ts';
import type { MeshPlans } from './mesh-plans.ts';
import { differentProcessors } from './processor-kinds.ts';
import type { Roster } from './roster.ts';
import type { Waker } from './waker.ts';

/** What a former works with. */
export interface FormerOptions {
  readonly lock: LeaderLock;
  readonly plans: MeshPlans;
  readonly tools: FormingTools;
  readonly membership: Membership;
  readonly roster: Roster;
  readonly holdings: Holdings;
  readonly waker: Waker;
  readonly connection: ConnectionWatch;
  readonly agents: Agents;
  readonly minWorkers: number | null;
  readonly waitMs: number;
  /** Whether a step must have the same bits whenever and wherever it is done. */
  readonly exact: boolean;
  /** Completed steps that must not be exceeded. */
  limit(): number;
  /** Whether the run has begun: then it may go on with fewer workers. */
  started(): boolean;
  /** `performance.now()` when the last agent came. */
  joinedAt(): number;
  /** A generation of this number is about to be formed. */
  readonly begins: (generation: number) => void;
  readonly warn: (message: string) => void;
  readonly emit: (event: RunEvent) => void;
}

/** Forms one generation after another, of whoever is there. */
export class Former {
  readonly #options: FormerOptions;
  #generation: number;

  /** @param last number of the last generation that any coordinator of this job has begun */
  constructor(options: FormerOptions, last: number) {
    this.#options = options;
    this.#generation = last;
  }

  /** Number of the newest generation. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Forms generations until one has been given its ranks.
   * @throws what ends the run
   */
  async form(first: string): Promise<Formed> {
    const { tools, plans, roster, holdings, waker, connection, minWorkers, waitMs, emit } = this.#options;
    let reason = first;
    for (;;) {
      await connection.steady();
      const plan = await enoughWorkers({
        job: tools.records.job,
        roster,
        plans,
        waker,
        minWorkers,
        started: this.#options.started(),
        waitMs,
        joinedAt: () => this.#options.joinedAt(),
        emit,
      });
      tools.mark('wait');
      const { downs } = connection;
      const members = roster.usable();
      this.#generation += 1;
      this.#options.begins(this.#generation);
      try {
        const formed = await formGeneration(tools, {
          generation: this.#generation,
          reason,
          plan,
          members,
          seatable: new Set(roster.seatable().map(({ id }) => id)),
          before: holdings.seats,
          holds: holdings.held,
          limit: this.#options.limit(),
        });
        this.#compareProcessors(formed);
        return formed;
      } catch (error) {
        waker.throwIfEnded();
        if (!(error instanceof FormingFailed)) throw error;
        this.#leaveOut(error, downs);
        reason = error.message;
      }
    }
  }

  #compareProcessors({ seats }: Formed): void {
    const { exact, membership, warn } = this.#options;
    if (!exact) return;
    const agents = [...new Set(seats.map(({ agent }) => agent))];
    const different = differentProcessors(agents.flatMap((agent) => membership.get(agent) ?? []));
    if (different !== null) warn(different);
  }

  /** Takes out whoever did not answer or refused. */
  #leaveOut({ silent, refused }: FormingFailed, downs: number): void {
    const { lock, membership, roster, holdings, connection, warn, emit } = this.#options;
    for (const problem of refused) {
      if (problem.stale) throw lock.giveUp(problem.message);
      const member = membership.get(problem.agent);
      if (member) roster.ban(member, problem.message);
      warn(`agent ${problem.agent} is not used: ${problem.message}`);
    }
    // Where this process itself was cut off, nobody is to blame for not having answered.
    if (connection.downs !== downs || !connection.up) return;
    for (const { agent } of silent) {
      const seen = membership.seenMs(agent);
      membership.giveUp(agent);
      holdings.forget(agent);
      const ranks = holdings.ranksOf(agent);
      emit({ type: 'lost', agent, ranks, reason: 'it does not answer', detectedMs: seen });
    }
  }
}
