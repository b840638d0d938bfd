import type { AgentEvent, WorkerEvent } from '../../worker/index.ts';
import type { ReadyEvent } from '../launch/index.ts';
import { Answers } from './answers.ts';
import type { Holdings } from './holdings.ts';
import type { Membership } from './membership.ts';
import type { RemoteWorkers } from './remote-workers.ts';
import type { Roster } from './roster.ts';
import type { Trouble } from './troubles.ts';

/** What ranks say before the last agent has accepted its assignment is kept, up to so many events. */
const EARLY_KEPT = 4096;

/** Who is told of what agents say. */
export interface HearingOptions {
  readonly membership: Membership;
  readonly roster: Roster;
  readonly holdings: Holdings;
  readonly workers: RemoteWorkers;
  /** Number of the newest generation. */
  generation(): number;
  readonly trouble: (trouble: Trouble) => void;
  /** Something is to be looked at. */
  readonly wake: () => void;
}

/** Takes the events of agents, and brings each to where it belongs; those of older generations are dropped. */
export class Hearing {
  readonly #options: HearingOptions;
  /** Null while a generation is being formed. */
  #ready: Answers | null = null;
  #all: readonly ReadyEvent[] | null = null;
  #early: AgentEvent[] = [];

  constructor(options: HearingOptions) {
    this.#options = options;
  }

  /** What all ranks of the generation said when they were ready, by rank; null before the last of them has. */
  get ready(): readonly ReadyEvent[] | null {
    return this.#all;
  }

  /** A generation is about to be formed. */
  forms(): void {
    this.#early = [];
    this.#ready = null;
    this.#all = null;
  }

  /** It has been formed, with so many ranks: what they have said meanwhile is heard now. */
  formed(world: number): void {
    this.#ready = new Answers(world);
    for (const event of this.#early.splice(0)) this.#ofGeneration(event);
  }

  heard(event: AgentEvent): void {
    const { agent, generation } = event;
    const { membership, roster, holdings, wake } = this.#options;
    membership.touch(agent);
    if (event.type === 'leaving') {
      roster.leaves(agent);
      wake();
    } else if (event.type === 'snapshots') {
      for (const { tensors } of event.snapshots) holdings.holds(agent, tensors);
    } else if (generation === this.#options.generation()) {
      if (this.#ready) this.#ofGeneration(event);
      else if (this.#early.length < EARLY_KEPT) this.#early.push(event);
    }
  }

  #ofGeneration(event: AgentEvent): void {
    const { agent } = event;
    const { workers, trouble } = this.#options;
    if (event.type === 'link-lost')
      trouble({ kind: 'link', rank: event.rank, peer: event.peer, reason: event.reason, at: performance.now() });
    else if (event.type === 'snapshot') workers.receiveSnapshot(event);
    else if (event.type === 'worker') this.#said(agent, event.rank, event.event);
  }

  #said(agent: string, rank: number, event: WorkerEvent): void {
    const { workers, trouble, wake } = this.#options;
    if (event.type === 'ready') {
      this.#all ??= this.#ready?.put('ready', rank, event) ?? null;
      if (this.#all) wake();
    } else if (event.type === 'failed')
      trouble({ kind: 'failed', rank, agent, report: event.report, at: performance.now() });
    else workers.receive(rank, event);
  }
}
