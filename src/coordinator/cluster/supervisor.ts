import { connectionUp, watchConnection } from '../../comm/index.ts';
import { worldSize } from '../../plan/index.ts';
import type { AgentEvent, GenerationRecord, MemberRecord, WorkerEvent } from '../../worker/index.ts';
import type { RunEvent } from '../events.ts';
import { RunFailure } from '../failure.ts';
import type { ReadyEvent } from '../launch/index.ts';
import { AgentRefused, AgentSilent, Agents } from './agents.ts';
import { Answers } from './answers.ts';
import { enoughWorkers } from './enough-workers.ts';
import { ClusterError } from './errors.ts';
import { type Formed, FormingFailed, type FormingTools, formGeneration } from './generation.ts';
import type { LeaderLock } from './leader-lock.ts';
import { LEFT, type MemberChange, Membership } from './membership.ts';
import type { MeshPlan, MeshPlans } from './mesh-plans.ts';
import { Reachability } from './reachability.ts';
import type { Records } from './records.ts';
import type { RemoteWorkers } from './remote-workers.ts';
import { Roster } from './roster.ts';
import { describeTrouble, failureKey, isOwn, looksOwn, type Trouble, unmadeLink, waitedFor } from './troubles.ts';
import { Waker } from './waker.ts';

/** Signs that belong together come in this short a time, in milliseconds. */
const GATHER_MS = 10;
/** A suspected agent must answer within this time, in milliseconds; one against which nothing speaks may take longer. */
const ASK_MS = 250;
const CALM_ASK_MS = 1000;
/** Where everybody lives, a rank's own report of what went wrong may still be on its way for this long. */
const CAUSE_MS = 300;
/** Generations are not begun more often than this only to take in a worker. */
const GROW_MS = 2000;
/** Ranks come to rest within this time before a planned change, or it is made without. */
const REST_MS = 30_000;
/** Generations in a row that end without a step although nobody was lost. */
const MAX_BARREN = 5;

/** What a supervisor is told. */
export interface SupervisorOptions {
  readonly records: Records;
  readonly lock: LeaderLock;
  readonly plans: MeshPlans;
  readonly tools: Omit<FormingTools, 'agents' | 'records' | 'ways' | 'firstGeneration'>;
  /** The last generation that any coordinator of this job began. */
  readonly last: GenerationRecord | null;
  /** Snapshots of generations before this one are of another run; null: all that were there before. */
  readonly firstGeneration: number | null;
  readonly minWorkers: number | null;
  readonly maxWorkers: number | null;
  /** Whether this run has trained before, under another coordinator: it may go on with one worker. */
  readonly started: boolean;
  readonly deadlineMs: number;
  readonly waitMs: number;
  readonly maxRecoveries: number;
  readonly emit: (event: RunEvent) => void;
}

interface Decision {
  readonly detectionMs: number;
  readonly at: number;
}

/**
 * Keeps a run's ranks going: forms generations of the agents that are there, notices when something is wrong with one,
 * finds out what, and forms the next.
 */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #agents: Agents;
  readonly #membership: Membership;
  readonly #roster: Roster;
  readonly #ways = new Reachability();
  readonly #workers: RemoteWorkers;
  readonly #unwatch: () => void;
  readonly #stopped = new AbortController();
  readonly #waker = new Waker(this.#stopped.signal);
  readonly firstGeneration: number;
  #generation: number;
  #formed: Formed | null = null;
  /** What ranks say before the last agent has accepted its assignment. */
  #early: AgentEvent[] = [];
  #ready: Answers | null = null;
  #seats: Formed['seats'] = [];
  /** Names of tensors that lie in agents' memory. */
  readonly #holds = new Map<string, Set<string>>();
  #troubles: Trouble[] = [];
  #quiet = false;
  #started: boolean;
  #recovering: Decision | null = null;
  #recoveries = 0;
  #lastOwn: string | null = null;
  #barren = 0;
  #formedAt = 0;
  #joinedAt = performance.now();
  #upAt = Number.NEGATIVE_INFINITY;
  #downs = 0;
  #resolveReady: (ready: readonly ReadyEvent[]) => void = () => undefined;
  #firstReady: (value: { ready: readonly ReadyEvent[]; formed: Formed }) => void = () => undefined;
  readonly #told = new Set<string>();
  #life: Promise<void> | null = null;

  constructor(options: SupervisorOptions, workers: RemoteWorkers) {
    const { records, lock, plans } = options;
    this.#options = options;
    this.#workers = workers;
    const { last } = options;
    this.#generation = last?.generation ?? 0;
    this.firstGeneration = options.firstGeneration ?? this.#generation + 1;
    const plan = last && this.#generation >= this.firstGeneration ? plans.plan(last.mesh) : null;
    if (last && plan) this.#seated(last.members, plan);
    this.#started = options.started;
    this.#agents = new Agents(
      records.connection,
      records.job,
      lock.term,
      (event) => this.#heard(event),
      (error) =>
        this.#fatal(new ClusterError(`events of agents cannot be received: ${error.message}`, { cause: error })),
    );
    this.#membership = new Membership(records, (change) => this.#memberChanged(change));
    const max = options.maxWorkers ?? Number.POSITIVE_INFINITY;
    this.#roster = new Roster(this.#membership, plans.wanted, max, (mesh) => plans.plan(mesh) !== null);
    this.#unwatch = watchConnection(records.connection, {
      down: () => {
        this.#downs += 1;
        this.#membership.connection(false);
      },
      up: () => {
        this.#upAt = performance.now();
        this.#membership.connection(true);
      },
      closed: (reason) => this.#fatal(new ClusterError(reason)),
    });
    lock.lost.catch((error: Error) => this.#fatal(error));
  }

  get recoveries(): number {
    return this.#recoveries;
  }

  get formed(): Formed | null {
    return this.#formed;
  }

  get agents(): Agents {
    return this.#agents;
  }

  get generation(): number {
    return this.#generation;
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
    this.#barren = 0;
    const decision = this.#recovering;
    if (!decision) return;
    this.#recovering = null;
    this.#options.emit({
      type: 'recovered',
      generation: this.#generation,
      step: completed,
      detectionMs: decision.detectionMs,
      recoveryMs: performance.now() - decision.at,
    });
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
      const deadline = Math.min(2000, this.#options.deadlineMs);
      const members = this.#membership.here();
      await Promise.all(members.map(({ id }) => this.#agents.release(id, this.#generation, reason, deadline)));
    }
    this.#membership.stop();
    this.#unwatch();
    this.#agents.close();
    await this.#life?.catch(() => undefined);
  }

  /** Another coordinator leads now: agents are its own. */
  #left = false;

  async #run(): Promise<void> {
    try {
      let reason = this.#options.firstGeneration === null ? 'the run begins' : 'another coordinator leads';
      for (;;) {
        const formed = await this.#form(reason);
        reason = await this.#watch(formed);
      }
    } catch (error) {
      if (!this.#stopped.signal.aborted) this.#fatal(error as Error);
    }
  }

  #fatal(error: Error): void {
    if (error.name === 'LeaderLost') this.#left = true;
    this.#workers.fail(error);
  }

  /** Forms generations until one is ready. */
  async #form(first: string): Promise<Formed> {
    let reason = first;
    for (;;) {
      await this.#steady();
      const { records, plans, minWorkers, waitMs, emit } = this.#options;
      const plan = await enoughWorkers({
        job: records.job,
        roster: this.#roster,
        plans,
        waker: this.#waker,
        minWorkers,
        started: this.#started,
        waitMs,
        joinedAt: () => this.#joinedAt,
        emit,
      });
      const downs = this.#downs;
      const usable = this.#roster.usable();
      this.#generation += 1;
      this.#troubles = [];
      this.#early = [];
      this.#formed = null;
      try {
        const formed = await formGeneration(
          {
            ...this.#options.tools,
            agents: this.#agents,
            records: this.#options.records,
            ways: this.#ways,
            firstGeneration: this.firstGeneration,
          },
          {
            generation: this.#generation,
            reason,
            plan,
            members: usable,
            seatable: new Set(this.#roster.seatable().map(({ id }) => id)),
            before: this.#seats,
            holds: this.#holds,
            limit: this.#workers.completed,
          },
        );
        const problem = await this.#allReady(formed);
        if (problem === null) return formed;
        reason = problem;
      } catch (error) {
        this.#stopped.signal.throwIfAborted();
        if (!(error instanceof FormingFailed)) throw error;
        reason = this.#notFormed(error, downs);
      }
    }
  }

  /** Waits until the ranks of a new generation are ready. Null, or why the next must be formed at once. */
  async #allReady(formed: Formed): Promise<string | null> {
    this.#formed = formed;
    this.#ready = new Answers(formed.seats.length);
    let ready: readonly ReadyEvent[] | null = null;
    this.#resolveReady = (all) => {
      ready = all;
      this.#waker.wake();
    };
    const { generation, plan, seats, links, fromStep, record } = formed;
    this.#options.emit({
      type: 'generation',
      generation,
      mesh: plan.mesh,
      members: seats,
      links,
      fromStep,
      reason: record.reason,
    });
    for (const event of this.#early.splice(0)) this.#ofGeneration(event);
    const until = performance.now() + Math.max(300_000, this.#options.deadlineMs);
    while (ready === null && this.#troubles.length === 0) {
      if (performance.now() > until)
        throw new ClusterError(
          `the ranks of generation ${generation} were not ready within 300 s: see the agents' logs`,
        );
      await this.#waker.change(1000);
    }
    if (ready === null) return this.#decide(formed);
    this.#ready = null;
    this.#formedAt = performance.now();
    this.#started = true;
    this.#quiet = false;
    this.#seated(seats, plan);
    this.#workers.begin({
      generation,
      seats,
      fromStep,
      send: (rank, command) => this.#send(formed, rank, command),
    });
    this.#firstReady({ ready, formed });
    for (const { id } of this.#roster.leaving())
      void this.#agents.release(id, generation, 'its ranks have moved to others', 2000);
    return null;
  }

  #send(formed: Formed, rank: number, command: Parameters<Parameters<RemoteWorkers['begin']>[0]['send']>[1]): void {
    const agent = formed.seats[rank]?.agent as string;
    const { generation } = formed;
    const asked = this.#agents.inOrder(agent, generation, { type: 'command', rank, command }, this.#options.deadlineMs);
    asked.catch((error: Error) => {
      if (this.#formed !== formed || this.#stopped.signal.aborted) return;
      if (error instanceof AgentRefused && error.stale) this.#fatal(this.#options.lock.giveUp(error.message));
      else if (error instanceof AgentSilent)
        this.#trouble({
          kind: 'silent',
          agent,
          reason: error.message,
          at: performance.now() - this.#membership.seenMs(agent),
        });
      // Another refusal: the rank is gone there, which its agent reports as well.
    });
  }

  /** Waits until a generation must end. Returns why. */
  async #watch(formed: Formed): Promise<string> {
    let change: string | null = null;
    let resting = 0;
    for (;;) {
      this.#stopped.signal.throwIfAborted();
      if (this.#troubles.length > 0) return this.#decide(formed);
      if (change === null && !this.#workers.stopping) {
        change = this.#plannedChange(formed);
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

  /** Why a generation should end at the next boundary of steps, or null. */
  #plannedChange(formed: Formed): string | null {
    const leaving = this.#roster.leaving().find(({ id }) => formed.seats.some(({ agent }) => agent === id));
    if (leaving) return `agent ${leaving.id} leaves`;
    const keeper = [...formed.replicaHosts].find((id) => this.#membership.get(id) === null);
    if (keeper !== undefined) return `agent ${keeper}, which kept copies, is gone`;
    if (performance.now() - this.#formedAt < GROW_MS) return null;
    const mesh = this.#roster.mesh();
    if (!mesh || worldSize(mesh) <= formed.seats.length) return null;
    return `${this.#roster.slots()} workers are there, and the mesh had ${formed.seats.length}`;
  }

  /** Finds out what is wrong, and what of it. Returns why the next generation is formed. @throws what ends the run */
  async #decide(formed: Formed): Promise<string> {
    const { seats } = formed;
    const first = Math.min(...this.#troubles.map(({ at }) => at));
    await this.#waker.pause(GATHER_MS);
    const unfit = this.#endIfOwn(formed);
    if (unfit !== null) return unfit;
    await this.#steady();
    const gone = new Map<string, { reason: string; at: number }>();
    for (const trouble of this.#troubles)
      if (trouble.kind === 'gone') gone.set(trouble.agent, { reason: trouble.reason, at: trouble.at });
    const suspects = new Map<string, string>();
    for (const trouble of this.#troubles) {
      const suspect =
        trouble.kind === 'link' ? seats[trouble.peer]?.agent : trouble.kind === 'silent' ? trouble.agent : undefined;
      if (suspect !== undefined) suspects.set(suspect, describeTrouble(trouble));
    }
    const unasked = (ids: Iterable<string>): string[] => [...ids].filter((id) => !gone.has(id));
    const ask = async (ids: readonly string[], deadlineMs: number): Promise<void> => {
      const silent = await this.#silent(ids, deadlineMs);
      for (const id of silent)
        gone.set(id, { reason: ['it does not answer', suspects.get(id)].filter(Boolean).join(': '), at: first });
    };
    await ask(unasked(suspects.keys()), ASK_MS);
    // If it was none of these, it may be anybody. (Of others, forming the next generation finds out.)
    if (gone.size === 0) await ask(unasked(new Set(seats.map(({ agent }) => agent))), CALM_ASK_MS);
    this.#workers.end();
    if (gone.size > 0) return this.#lost(formed, gone);
    return this.#nobodyLost(formed, first);
  }

  /** Those of some agents that do not answer in time. */
  async #silent(ids: readonly string[], deadlineMs: number): Promise<string[]> {
    // After a reconnect of this process or of the server, agents may be about to come back.
    const settled = performance.now() - this.#upAt > 2000;
    const answers = await Promise.all(
      ids.map((id) => {
        if (this.#membership.get(id) === null) return false;
        return this.#agents.answers(id, this.#generation, settled ? deadlineMs : 2000, settled);
      }),
    );
    return ids.filter((_, i) => !answers[i]);
  }

  #lost(formed: Formed, gone: ReadonlyMap<string, { reason: string; at: number }>): string {
    const now = performance.now();
    let reason = '';
    for (const [agent, { reason: why, at }] of gone) {
      const ranks = [...formed.seats.keys()].filter((rank) => formed.seats[rank]?.agent === agent);
      this.#membership.giveUp(agent);
      this.#holds.delete(agent);
      if (ranks.length === 0) continue;
      reason ||= `agent ${agent} was lost (${why})`;
      this.#options.emit({ type: 'lost', agent, ranks, reason: why, detectedMs: now - at });
    }
    if (this.#workers.stopping) this.#workers.endStop();
    this.#recovers(reason || 'an agent was lost', Math.min(...[...gone.values()].map(({ at }) => at)));
    return reason || 'an agent was lost';
  }

  /** All agents live: a rank or a link is to blame. */
  async #nobodyLost(formed: Formed, first: number): Promise<string> {
    await this.#waker.pause(CAUSE_MS);
    const unfit = this.#endIfOwn(formed);
    if (unfit !== null) return unfit;
    const failed = this.#troubles.filter((trouble) => trouble.kind === 'failed');
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
      if (a && b) this.#ways.doubt(a, b);
    }
    const link = this.#troubles.find((trouble) => trouble.kind === 'link');
    if (!own && link) this.#noteFailed(formed, link.rank, link.peer);
    const trouble = own ?? link ?? this.#troubles[0];
    const reason = trouble ? describeTrouble(trouble) : 'unknown';
    this.#barren += 1;
    if (this.#barren > MAX_BARREN) {
      if (failed[0]) throw this.#failure(formed, failed[0]);
      throw new ClusterError(`${MAX_BARREN} generations in a row ended without a step, the last because ${reason}`);
    }
    this.#recovers(reason, first);
    return reason;
  }

  #noteFailed({ seats, links }: Formed, rank: number, peer: number): void {
    const [a, b] = [seats[rank]?.agent, seats[peer]?.agent];
    const kind = links[rank]?.[peer];
    if (a && b && a !== b && kind && kind !== '-') this.#ways.noteFailed(a, b, kind);
  }

  #recovers(reason: string, firstSign: number): void {
    const at = performance.now();
    this.#recovering = { detectionMs: at - firstSign, at };
    this.#recoveries += 1;
    if (this.#recoveries > this.#options.maxRecoveries)
      throw new ClusterError(
        `the run had to recover ${this.#recoveries} times, and recovery.max_recoveries is ${this.#options.maxRecoveries}; the last time because ${reason}`,
      );
  }

  /**
   * A failure of the program itself ends the run. An agent that is unfit for it (other data, no module file) is left out if
   * there are others: then the reason is returned.
   */
  #endIfOwn(formed: Formed): string | null {
    const failed = this.#troubles.filter((trouble) => trouble.kind === 'failed');
    const own = failed.find(({ report }) => isOwn(report));
    if (!own) return null;
    const unfit = own.report.name === 'AgentRefusal' || own.report.name === 'DataError';
    const others = this.#roster.seatable().filter(({ id }) => id !== own.agent);
    const member = this.#membership.get(own.agent);
    if (unfit && member && this.#started && others.length > 0) {
      this.#roster.ban(member, own.report.message);
      const reason = `agent ${own.agent} on ${member.host} is not used: ${own.report.message}`;
      this.#warn(reason);
      this.#workers.end();
      return reason;
    }
    throw this.#failure(formed, own);
  }

  #failure(formed: Formed, cause: Extract<Trouble, { kind: 'failed' }>): RunFailure {
    const reports = [cause, ...this.#troubles.filter((trouble) => trouble !== cause)].flatMap((trouble) => {
      if (trouble.kind !== 'failed') return [];
      const agent = formed.seats[trouble.rank]?.agent ?? trouble.agent;
      const member = this.#membership.get(agent);
      const where = `(agent ${agent}${member ? ` on ${member.host}, pid ${member.pid}` : ''})`;
      return [{ ...trouble.report, message: `${trouble.report.message}\n${where}` }];
    });
    return new RunFailure(reports as [(typeof reports)[0], ...typeof reports]);
  }

  /** Takes out whoever did not answer or refused. Returns why the next generation is formed. */
  #notFormed({ silent, refused }: FormingFailed, downs: number): string {
    for (const problem of refused) {
      if (problem.stale) throw this.#options.lock.giveUp(problem.message);
      const member = this.#membership.get(problem.agent);
      if (member) this.#roster.ban(member, problem.message);
      this.#warn(`agent ${problem.agent} is not used: ${problem.message}`);
    }
    // Where this process itself was cut off, nobody is to blame for not having answered.
    if (this.#downs === downs && connectionUp(this.#options.records.connection))
      for (const { agent } of silent) {
        const seen = this.#membership.seenMs(agent);
        this.#membership.giveUp(agent);
        const ranks = [...this.#seats.keys()].filter((rank) => this.#seats[rank]?.agent === agent);
        this.#holds.delete(agent);
        this.#options.emit({ type: 'lost', agent, ranks, reason: 'it does not answer', detectedMs: seen });
      }
    return [...silent, ...refused].map(({ message }) => message).join('; ');
  }

  /** Waits while the connection to NATS is down, or has only just come back. */
  async #steady(): Promise<void> {
    const { connection } = this.#options.records;
    const until = performance.now() + this.#options.deadlineMs;
    while (!connectionUp(connection)) {
      this.#stopped.signal.throwIfAborted();
      if (performance.now() > until)
        throw new ClusterError(
          `the NATS server was not there for ${(this.#options.deadlineMs / 1000).toFixed(0)} s (comm.deadline_s): the run can be resumed when it is back`,
        );
      await this.#waker.pause(50);
    }
  }

  #heard(event: AgentEvent): void {
    if (this.#stopped.signal.aborted) return;
    const { agent, generation } = event;
    this.#membership.touch(agent);
    if (event.type === 'leaving') {
      this.#roster.leaves(agent);
      this.#waker.wake();
      return;
    }
    if (event.type === 'snapshots') {
      for (const { tensors } of event.snapshots) this.#hold(agent, tensors);
      return;
    }
    if (generation !== this.#generation) return;
    if (this.#formed) this.#ofGeneration(event);
    else if (this.#early.length < 4096) this.#early.push(event);
  }

  #ofGeneration(event: AgentEvent): void {
    const { agent } = event;
    if (event.type === 'link-lost')
      this.#trouble({ kind: 'link', rank: event.rank, peer: event.peer, reason: event.reason, at: performance.now() });
    else if (event.type === 'snapshot') this.#workers.receiveSnapshot(event.rank, event.id, agent, event.snapshot);
    else if (event.type === 'worker') this.#said(agent, event.rank, event.event);
  }

  #said(agent: string, rank: number, event: WorkerEvent): void {
    if (event.type === 'ready') {
      const all = this.#ready?.put('ready', rank, event);
      if (all) this.#resolveReady(all);
    } else if (event.type === 'failed')
      this.#trouble({ kind: 'failed', rank, agent, report: event.report, at: performance.now() });
    else this.#workers.receive(rank, event);
  }

  #memberChanged(change: MemberChange): void {
    const { member } = change;
    if (change.type === 'gone') {
      this.#ways.forget(member.id);
      this.#holds.delete(member.id);
      if (this.#formed?.seats.some(({ agent }) => agent === member.id)) {
        const at = performance.now() - change.seenMs;
        this.#trouble({ kind: 'gone', agent: member.id, reason: change.reason, at });
      } else if (change.reason !== LEFT)
        this.#options.emit({
          type: 'lost',
          agent: member.id,
          ranks: [],
          reason: change.reason,
          detectedMs: change.seenMs,
        });
    } else this.#joined(member);
    this.#waker.wake();
  }

  #joined(member: MemberRecord): void {
    this.#joinedAt = performance.now();
    const refusal = this.#roster.refusal(member);
    if (refusal !== null) {
      this.#warn(`agent ${member.id} on ${member.host} is not used: ${refusal}`);
      return;
    }
    this.#options.emit({ type: 'joined', agent: member.id, slots: member.slots });
    // One that was given up and has come back still tries to do what nobody wants any more.
    if (member.generation !== null && this.#formed && !this.#formed.members.has(member.id))
      void this.#agents.release(member.id, this.#generation, 'it was given up for lost', 2000);
  }

  #trouble(trouble: Trouble): void {
    if (this.#troubles.length < 256) this.#troubles.push(trouble);
    this.#waker.wake();
  }

  #warn(message: string): void {
    if (this.#told.has(message)) return;
    this.#told.add(message);
    this.#options.emit({ type: 'warning', message });
  }

  #hold(agent: string, tensors: readonly { readonly name: string }[]): void {
    const held = this.#holds.get(agent) ?? new Set<string>();
    this.#holds.set(agent, held);
    for (const { name } of tensors) held.add(name);
  }

  /** Ranks were seated: what they need is in their agents' memory from now on, and nothing else for long. */
  #seated(seats: Formed['seats'], plan: MeshPlan): void {
    this.#seats = seats;
    this.#holds.clear();
    for (const [rank, { agent }] of seats.entries()) this.#hold(agent, plan.needs[rank] ?? []);
  }
}
