import { RunFailure } from '../failure.ts';
import type { Agents } from './agents.ts';
import type { ConnectionWatch } from './connection-watch.ts';
import { ClusterError } from './errors.ts';
import type { Formed } from './generation.ts';
import type { Membership } from './membership.ts';
import type { Reachability } from './reachability.ts';
import type { Roster } from './roster.ts';
import {
  describeTrouble,
  failureKey,
  isOwn,
  looksOwn,
  type Trouble,
  type Troubles,
  unmadeLink,
  waitedFor,
} from './troubles.ts';
import type { Waker } from './waker.ts';

/** Signs that belong together come in this short a time, in milliseconds. */
const GATHER_MS = 10;
/** A suspected agent must answer within this time, in milliseconds; one against which nothing speaks may take longer. */
const ASK_MS = 250;
const CALM_ASK_MS = 1000;
/** What an agent is given that may only be about to come back from a reconnect, in milliseconds. */
const RECONNECT_ASK_MS = 2000;
/** Where everybody lives, a rank's own report of what went wrong may still be on its way for this long. */
const CAUSE_MS = 300;
/** Generations in a row that end without a step although nobody was lost. */
const MAX_BARREN = 5;

type Failed = Extract<Trouble, { kind: 'failed' }>;

/** Why an agent counts as lost, and when the first sign of it was (`performance.now()`). */
export interface Loss {
  readonly reason: string;
  readonly at: number;
}

/** What came of looking into a trouble. */
export type Verdict =
  /** By agent. */
  | { readonly type: 'lost'; readonly gone: ReadonlyMap<string, Loss> }
  /** All agents live: a rank or a link was to blame. */
  | { readonly type: 'disturbed'; readonly reason: string; readonly firstAt: number }
  /** An agent cannot do this run's work; it is left out from now on. */
  | { readonly type: 'unfit'; readonly reason: string };

/** What it asks, and looks at. */
export interface InquestTools {
  readonly agents: Agents;
  readonly membership: Membership;
  readonly roster: Roster;
  readonly ways: Reachability;
  readonly waker: Waker;
  readonly troubles: Troubles;
  readonly connection: ConnectionWatch;
}

/** Finds out who is lost, or what else was wrong, when there are signs of trouble. */
export class Inquest {
  readonly #tools: InquestTools;
  #lastOwn: string | null = null;
  #barren = 0;

  constructor(tools: InquestTools) {
    this.#tools = tools;
  }

  /** The run goes on: what happened before has no bearing on what comes. */
  progress(): void {
    this.#barren = 0;
  }

  /**
   * Looks into the signs of a generation.
   * @param othersMayDo whether others could go on in place of an agent that is unfit
   * @throws RunFailure, ClusterError where going on makes no sense
   */
  async hold(formed: Formed, othersMayDo: boolean): Promise<Verdict> {
    const { waker, troubles, connection } = this.#tools;
    const firstAt = troubles.firstAt;
    await waker.pause(GATHER_MS);
    const unfit = this.#unfit(formed, othersMayDo);
    if (unfit !== null) return { type: 'unfit', reason: unfit };
    await connection.steady();
    const gone = await this.#gone(formed, firstAt);
    if (gone.size > 0) return { type: 'lost', gone };
    return this.#nobodyLost(formed, firstAt, othersMayDo);
  }

  /** Agents that are gone, and those among the suspects, or else among all, that do not answer. */
  async #gone({ seats, generation }: Formed, firstAt: number): Promise<Map<string, Loss>> {
    const gone = new Map<string, Loss>();
    const suspects = new Map<string, string>();
    for (const trouble of this.#tools.troubles.all) {
      if (trouble.kind === 'gone') gone.set(trouble.agent, { reason: trouble.reason, at: trouble.at });
      const suspect =
        trouble.kind === 'link' ? seats[trouble.peer]?.agent : trouble.kind === 'silent' ? trouble.agent : undefined;
      if (suspect !== undefined) suspects.set(suspect, describeTrouble(trouble));
    }
    const ask = async (ids: Iterable<string>, deadlineMs: number): Promise<void> => {
      const unknown = [...ids].filter((id) => !gone.has(id));
      for (const id of await this.#silent(unknown, generation, deadlineMs))
        gone.set(id, { reason: ['it does not answer', suspects.get(id)].filter(Boolean).join(': '), at: firstAt });
    };
    await ask(suspects.keys(), ASK_MS);
    // If it was none of these, it may be anybody. (Of others, forming the next generation finds out.)
    if (gone.size === 0) await ask(new Set(seats.map(({ agent }) => agent)), CALM_ASK_MS);
    return gone;
  }

  /** Those of some agents that do not answer in time. */
  async #silent(ids: readonly string[], generation: number, deadlineMs: number): Promise<string[]> {
    const { agents, membership, connection } = this.#tools;
    // After a reconnect of this process or of the server, agents may be about to come back.
    const { settled } = connection;
    const answers = await Promise.all(
      ids.map((id) => {
        if (membership.get(id) === null) return false;
        return agents.answers(id, generation, settled ? deadlineMs : RECONNECT_ASK_MS, settled);
      }),
    );
    return ids.filter((_, i) => !answers[i]);
  }

  /** All agents live: a rank or a link is to blame. */
  async #nobodyLost(formed: Formed, firstAt: number, othersMayDo: boolean): Promise<Verdict> {
    const { troubles } = this.#tools;
    await this.#cause(formed);
    const unfit = this.#unfit(formed, othersMayDo);
    if (unfit !== null) return { type: 'unfit', reason: unfit };
    const { failed } = troubles;
    const own = failed.find(({ report }) => looksOwn(report));
    if (own) {
      const key = failureKey(own.report);
      if (key === this.#lastOwn) throw this.#failure(formed, own);
      this.#lastOwn = key;
    }
    for (const { report } of failed) {
      const unmade = unmadeLink(report);
      if (unmade) this.#noteFailed(formed, unmade.rank, unmade.peer);
      const waited = waitedFor(report);
      const [a, b] = [waited?.rank, waited?.peer].map((rank) => formed.seats[rank ?? -1]?.agent);
      if (a && b) this.#tools.ways.doubt(a, b);
    }
    const link = troubles.all.find((trouble) => trouble.kind === 'link');
    if (!own && link) this.#noteFailed(formed, link.rank, link.peer);
    const trouble = own ?? link ?? troubles.all[0];
    const reason = trouble ? describeTrouble(trouble) : 'unknown';
    this.#barren += 1;
    if (this.#barren > MAX_BARREN) {
      if (failed[0]) throw this.#failure(formed, failed[0]);
      throw new ClusterError(`${MAX_BARREN} generations in a row ended without a step, the last because ${reason}`);
    }
    return { type: 'disturbed', reason, firstAt };
  }

  /** Waits for a rank to say that it was its own fault, or for all to say that it was not. */
  async #cause({ seats }: Formed): Promise<void> {
    const { troubles, waker } = this.#tools;
    const until = performance.now() + CAUSE_MS;
    for (let left = CAUSE_MS; left > 0; left = until - performance.now()) {
      const { failed } = troubles;
      if (failed.some(({ report }) => isOwn(report))) return;
      if (new Set(failed.map(({ rank }) => rank)).size === seats.length) return;
      await waker.change(left);
    }
  }

  #noteFailed({ seats, links }: Formed, rank: number, peer: number): void {
    const [a, b] = [seats[rank]?.agent, seats[peer]?.agent];
    const kind = links[rank]?.[peer];
    if (a && b && a !== b && kind && kind !== '-') this.#tools.ways.noteFailed(a, b, kind);
  }

  /**
   * A failure of the program itself ends the run. An agent that is unfit for it (other data, no module file) is left out if
   * there are others: then the reason is returned.
   */
  #unfit(formed: Formed, othersMayDo: boolean): string | null {
    const { troubles, roster, membership } = this.#tools;
    const own = troubles.failed.find(({ report }) => isOwn(report));
    if (!own) return null;
    const unfit = own.report.name === 'AgentRefusal' || own.report.name === 'DataError';
    const others = roster.seatable().filter(({ id }) => id !== own.agent);
    const member = membership.get(own.agent);
    if (!unfit || !member || !othersMayDo || others.length === 0) throw this.#failure(formed, own);
    roster.ban(member, own.report.message);
    return `agent ${own.agent} on ${member.host} is not used: ${own.report.message}`;
  }

  #failure({ seats }: Formed, cause: Failed): RunFailure {
    const others = this.#tools.troubles.failed.filter((trouble) => trouble !== cause);
    const reports = [cause, ...others].map((trouble) => {
      const agent = seats[trouble.rank]?.agent ?? trouble.agent;
      const member = this.#tools.membership.get(agent);
      const where = `(agent ${agent}${member ? ` on ${member.host}, pid ${member.pid}` : ''})`;
      return { ...trouble.report, message: `${trouble.report.message}\n${where}` };
    });
    return new RunFailure(reports as [(typeof reports)[0], ...typeof reports]);
  }
}
