import type { MemberRecord } from '../../worker/index.ts';
import type { RunEvent } from '../events.ts';
import { type Agents, RELEASE_MS } from './agents.ts';
import type { Formed } from './generation.ts';
import type { Holdings } from './holdings.ts';
import { LEFT, type MemberChange } from './membership.ts';
import type { Reachability } from './reachability.ts';
import type { Roster } from './roster.ts';
import type { Trouble } from './troubles.ts';

/** Who is told when agents come and go. */
export interface ComingsOptions {
  readonly agents: Agents;
  readonly roster: Roster;
  readonly ways: Reachability;
  readonly holdings: Holdings;
  /** The generation that has its ranks, or null. */
  formed(): Formed | null;
  /** Number of the newest generation. */
  generation(): number;
  readonly trouble: (trouble: Trouble) => void;
  readonly wake: () => void;
  readonly warn: (message: string) => void;
  readonly emit: (event: RunEvent) => void;
}

/** What follows when agents come and go. */
export class Comings {
  readonly #options: ComingsOptions;
  #lastAt = performance.now();

  constructor(options: ComingsOptions) {
    this.#options = options;
  }

  /** `performance.now()` when the last agent came. */
  get lastAt(): number {
    return this.#lastAt;
  }

  changed(change: MemberChange): void {
    if (change.type === 'gone') this.#gone(change);
    else this.#joined(change.member);
    this.#options.wake();
  }

  #gone({ member, reason, seenMs }: Extract<MemberChange, { type: 'gone' }>): void {
    const { ways, holdings, trouble, emit } = this.#options;
    const { id: agent } = member;
    ways.forget(agent);
    holdings.forget(agent);
    if (this.#options.formed()?.seats.some((seat) => seat.agent === agent))
      trouble({ kind: 'gone', agent, reason, at: performance.now() - seenMs });
    else if (reason !== LEFT) emit({ type: 'lost', agent, ranks: [], reason, detectedMs: seenMs });
  }

  #joined(member: MemberRecord): void {
    const { agents, roster, warn, emit } = this.#options;
    const { id: agent, slots, host } = member;
    this.#lastAt = performance.now();
    const refusal = roster.refusal(member);
    if (refusal !== null) {
      warn(`agent ${agent} on ${host} is not used: ${refusal}`);
      return;
    }
    emit({ type: 'joined', agent, slots });
    // One that was given up and has come back still tries to do what nobody wants any more.
    const formed = this.#options.formed();
    if (member.generation !== null && formed && !formed.members.has(agent))
      void agents.release(agent, this.#options.generation(), 'it was given up for lost', RELEASE_MS);
  }
}
