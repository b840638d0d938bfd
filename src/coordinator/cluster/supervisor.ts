import type { ReadyEvent } from '../launch/index.ts';
import { Agents, RELEASE_MS } from './agents.ts';
import { Comings } from './comings.ts';
import { ConnectionWatch } from './connection-watch.ts';
import { type Crew, crewOf } from './crew.ts';
import { ClusterError } from './errors.ts';
import { Former } from './former.ts';
import type { Formed, FormingTools } from './generation.ts';
import { Hearing } from './hearing.ts';
import { Holdings } from './holdings.ts';
import { Inquest } from './inquest.ts';
import { Membership } from './membership.ts';
import { plannedChange } from './planned-change.ts';
import { Reachability } from './reachability.ts';
import { Recoveries } from './recoveries.ts';
import { RecoveryClock } from './recovery-clock.ts';
import type { RemoteWorkers } from './remote-workers.ts';
import { Roster } from './roster.ts';
import { SpareWarmer } from './spare-warmer.ts';
import type { SupervisorOptions } from './supervisor-options.ts';
import { type Trouble, Troubles } from './troubles.ts';
import { Waker } from './waker.ts';

/** Ranks come to rest within this time before a planned change, or it is made without. */
const REST_MS = 30_000;
/** Ranks are ready within this time, or the comm deadline if that is longer. */
const READY_MS = 300_000;

/**
 * Keeps a run's ranks going: forms generations of the agents that are there, notices when something is wrong with one,
 * has it looked into, and forms the next.
 */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #workers: RemoteWorkers;
  readonly #agents: Agents;
  readonly #membership: Membership;
  readonly #roster: Roster;
  readonly #connection: ConnectionWatch;
  readonly #inquest: Inquest;
  readonly #former: Former;
  readonly #spares: SpareWarmer;
  readonly #hearing: Hearing;
  readonly #comings: Comings;
  readonly #recoveries: Recoveries;
  readonly #holdings = new Holdings();
  readonly #troubles = new Troubles();
  readonly #clock = new RecoveryClock();
  readonly #stopped = new AbortController();
  readonly #waker = new Waker(this.#stopped.signal);
  readonly firstGeneration: number;
  #formed: Formed | null = null;
  #quiet = false;
  #started: boolean;
  #formedAt = 0;
  /** Another coordinator leads now: agents are its own. */
  #left = false;
  #firstReady: (value: { ready: readonly ReadyEvent[]; formed: Formed }) => void = () => undefined;
  readonly #told = new Set<string>();
  #life: Promise<void> | null = null;

  constructor(options: SupervisorOptions, workers: RemoteWorkers) {
    const { records, lock, plans, last, deadlineMs } = options;
    this.#options = options;
    this.#workers = workers;
    const newest = last?.generation ?? 0;
    this.firstGeneration = options.firstGeneration ?? newest + 1;
    const plan = last && newest >= this.firstGeneration ? plans.plan(last.mesh) : null;
    if (last && plan) this.#holdings.seated(last.members, plan);
    this.#started = options.started;
    this.#agents = new Agents(
      records.connection,
      records.job,
      lock.term,
      (event) => {
        if (!this.#stopped.signal.aborted) this.#hearing.heard(event);
      },
      (error) =>
        this.#fatal(new ClusterError(`events of agents cannot be received: ${error.message}`, { cause: error })),
    );
    this.#membership = new Membership(records, (change) => this.#comings.changed(change));
    const max = options.maxWorkers ?? Number.POSITIVE_INFINITY;
    this.#roster = new Roster(this.#membership, plans.wanted, max, (mesh) => plans.plan(mesh) !== null);
    this.#connection = new ConnectionWatch(records.connection, deadlineMs, this.#waker, {
      changed: (up) => this.#membership.connection(up),
      closed: (reason) => this.#fatal(new ClusterError(reason)),
    });
    const ways = new Reachability();
    const shared = {
      agents: this.#agents,
      membership: this.#membership,
      roster: this.#roster,
      waker: this.#waker,
      connection: this.#connection,
    };
    const told = {
      holdings: this.#holdings,
      generation: () => this.generation,
      trouble: (trouble: Trouble) => this.#trouble(trouble),
      wake: () => this.#waker.wake(),
      warn: (message: string) => this.#warn(message),
    };
    this.#hearing = new Hearing({ ...shared, ...told, workers });
    this.#comings = new Comings({ ...shared, ...told, ways, formed: () => this.#formed, emit: options.emit });
    this.#recoveries = new Recoveries({ ...options, ...shared, ...told, clock: this.#clock });
    this.#inquest = new Inquest({ ...shared, ways, troubles: this.#troubles });
    const { firstGeneration } = this;
    const mark: FormingTools['mark'] = (phase) => this.#clock.mark(phase);
    this.#former = new Former(
      {
        ...options,
        ...shared,
        ...told,
        tools: { ...options.tools, ...shared, records, ways, firstGeneration, mark },
        limit: () => workers.completed,
        started: () => this.#started,
        joinedAt: () => this.#comings.lastAt,
        begins: () => {
          this.#troubles.clear();
          this.#hearing.forms();
          this.#formed = null;
        },
      },
      newest,
    );
    this.#spares = new SpareWarmer(this.#agents, this.#roster);
    lock.lost.catch((error: Error) => this.#fatal(error));
  }

  get recoveries(): number {
    return this.#recoveries.count;
  }

  get formed(): Formed | null {
    return this.#formed;
  }

  get agents(): Agents {
    return this.#agents;
  }

  get generation(): number {
    return this.#former.generation;
  }

  /**
   * Forms the first generation and goes on in the background.
   * @throws whatever ends the run before it has begun; the signal's reason
   */
  async start(signal: AbortSignal): Promise<{ readonly ready: readonly ReadyEvent[]; readonly formed: Formed }> {
    const first = new Promise<{ ready: readonly ReadyEvent[]; formed: Formed }>((resolve) => {
      this.#firstReady = resolve;
    });
    await this.#membership.start();
    this.#life = this.#run();
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
      if (signal.aborted) reject(signal.reason);
    });
    aborted.catch(() => undefined);
    return Promise.race([first, aborted, this.#workers.failed]);
  }

  /** A step or another answer is complete. */
  progress(completed: number): void {
    this.#inquest.progress();
    const times = this.#clock.end();
    if (times) this.#options.emit({ type: 'recovered', generation: this.generation, step: completed, ...times });
    if (this.#formed) this.#spares.warm(this.#formed);
  }

  /** The ranks have come to rest. */
  quiet(): void {
    this.#quiet = true;
    this.#waker.wake();
  }

  /** Ends everything. Agents are told to be spare again, unless another leads them now. */
  async stop(reason: string): Promise<void> {
    if (this.#stopped.signal.aborted) return this.#life?.then(() => undefined);
    this.#stopped.abort(new ClusterError(reason));
    this.#waker.wake();
    this.#workers.end();
    if (!this.#left) {
      const deadline = Math.min(RELEASE_MS, this.#options.deadlineMs);
      const members = this.#membership.here();
      await Promise.all(members.map(({ id }) => this.#agents.release(id, this.generation, reason, deadline)));
    }
    this.#membership.stop();
    this.#connection.stop();
    this.#agents.close();
    await this.#life?.catch(() => undefined);
  }

  async #run(): Promise<void> {
    try {
      let reason = this.#options.firstGeneration === null ? 'the run begins' : 'another coordinator leads';
      for (;;) {
        const formed = await this.#former.form(reason);
        reason = (await this.#allReady(formed)) ?? (await this.#watch(formed));
      }
    } catch (error) {
      if (!this.#stopped.signal.aborted) this.#fatal(error as Error);
    }
  }

  #fatal(error: Error): void {
    if (error.name === 'LeaderLost') this.#left = true;
    this.#workers.fail(error);
  }

  /** Waits until the ranks of a new generation are ready. Null, or why the next must be formed at once. */
  async #allReady(formed: Formed): Promise<string | null> {
    const { generation, plan, seats, links, fromStep, record } = formed;
    this.#formed = formed;
    const { reason } = record;
    this.#options.emit({ type: 'generation', generation, mesh: plan.mesh, members: seats, links, fromStep, reason });
    this.#hearing.formed(seats.length);
    const until = performance.now() + Math.max(READY_MS, this.#options.deadlineMs);
    while (this.#hearing.ready === null && this.#troubles.all.length === 0) {
      if (performance.now() > until)
        throw new ClusterError(
          `the ranks of generation ${generation} were not ready within 300 s: see the agents' logs`,
        );
      await this.#waker.change(1000);
    }
    const { ready } = this.#hearing;
    if (ready === null) return this.#lookInto(formed);
    this.#clock.ready(ready.map(({ phases }) => phases));
    this.#formedAt = performance.now();
    this.#started = true;
    this.#quiet = false;
    this.#holdings.seated(seats, plan);
    this.#workers.begin(this.#crew(formed));
    this.#firstReady({ ready, formed });
    for (const { id } of this.#roster.leaving())
      void this.#agents.release(id, generation, 'its ranks have moved to others', RELEASE_MS);
    return null;
  }

  #crew(formed: Formed): Crew {
    return crewOf(formed, this.#agents, {
      deadlineMs: this.#options.deadlineMs,
      current: () => this.#formed === formed && !this.#stopped.signal.aborted,
      stale: (message) => this.#fatal(this.#options.lock.giveUp(message)),
      silent: (agent, reason) => {
        const at = performance.now() - this.#membership.seenMs(agent);
        this.#trouble({ kind: 'silent', agent, reason, at });
      },
    });
  }

  /** Waits until a generation must end. Returns why. */
  async #watch(formed: Formed): Promise<string> {
    let change: string | null = null;
    let resting = 0;
    for (;;) {
      this.#waker.throwIfEnded();
      if (this.#troubles.all.length > 0) return this.#lookInto(formed);
      if (change === null && !this.#workers.stopping) {
        change = plannedChange(formed, this.#roster, this.#membership, this.#formedAt);
        if (change !== null) {
          resting = performance.now();
          this.#workers.hold();
        }
      }
      // Once the ranks are held it is made, even if there is no reason any more: only a new generation goes on.
      if (change !== null && (this.#quiet || performance.now() - resting > REST_MS)) {
        this.#workers.end();
        return change;
      }
      await this.#waker.change(250);
    }
  }

  /** Finds out what is wrong, and what of it. Returns why the next generation is formed. @throws what ends the run */
  async #lookInto(formed: Formed): Promise<string> {
    const verdict = await this.#inquest.hold(formed, this.#started);
    this.#workers.end();
    if (verdict.type === 'lost') {
      if (this.#workers.stopping) this.#workers.endStop();
      return this.#recoveries.lost(formed, verdict.gone);
    }
    const { reason } = verdict;
    if (verdict.type === 'unfit') this.#warn(reason);
    else this.#recoveries.begin(reason, verdict.firstAt);
    return reason;
  }

  #trouble(trouble: Trouble): void {
    this.#troubles.add(trouble);
    this.#waker.wake();
  }

  #warn(message: string): void {
    if (this.#told.has(message)) return;
    this.#told.add(message);
    this.#options.emit({ type: 'warning', message });
  }
}
