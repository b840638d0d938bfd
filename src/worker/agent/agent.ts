import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { NatsConnection, Subscription } from '@nats-io/transport-node';
import {
  BlobServer,
  ControlRequester,
  ControlResponder,
  connectNats,
  EventSender,
  fetchBlob,
  hostId,
  probe,
  watchConnection,
} from '../../comm/index.ts';
import { Beat, openBucket } from './beat.ts';
import { DataCache } from './data-cache.ts';
import { Generation } from './generation.ts';
import { ModelFolder } from './model.ts';
import type { ResolvedAgentOptions } from './options.ts';
import { ownJob } from './own-job.ts';
import {
  type AgentEvent,
  type AgentReply,
  type AgentRequest,
  CLUSTER_PROTOCOL_VERSION,
  clusterKeys,
  clusterSubjects,
  type GenerationRecord,
  type RemoteJob,
  type ReplicaOffer,
  type SnapshotInfo,
} from './protocol.ts';
import type { EventBody } from './rank-run.ts';
import { AgentRefusal } from './refusal.ts';
import { ReplicaKeeper } from './replicate.ts';
import type { FetchRange } from './restore.ts';
import { Slot } from './slot.ts';
import { SnapshotStore } from './snapshot-store.ts';
import { PLEXUS_VERSION } from './version.ts';

/** How long a try to reach an address may take, in milliseconds. */
const PROBE_MS = 1500;
/** How long a fetch of tensors may take, in milliseconds. */
const FETCH_MS = 120_000;
/** Answers that are kept for requests that come again. */
const ANSWERS_KEPT = 256;
/**
 * How long an agent that leaves waits for the others to go on without it; then for them to fetch what it holds, if it was
 * not asked to stay for that; and if it was, for its release.
 */
const LEAVE_MS = 8000;
const LINGER_MS = 2000;
const HANDOVER_MS = 15_000;
/** How long the end of anything may take: threads, connections, the record. */
const CLOSE_MS = 3000;
/** How long a new generation may wait for the threads of the one before to let go. */
const SETTLE_MS = 1000;
/** How long a fixed port of the generation before may take to be free again. */
const PORT_MS = 1000;

/** One `plexus worker` process: serves the coordinator's requests, runs ranks in its slots, keeps snapshots. */
export class Agent {
  readonly id: string;
  readonly #life = randomBytes(8).toString('hex');
  readonly #options: ResolvedAgentOptions;
  readonly #control: NatsConnection;
  readonly #bulk: NatsConnection;
  readonly #models = new ModelFolder();
  readonly #slots: readonly Slot[];
  readonly #data = new DataCache();
  readonly #blobs: BlobServer;
  readonly #store: SnapshotStore;
  readonly #keeper: ReplicaKeeper;
  readonly #requester: ControlRequester;
  readonly #events: EventSender;
  readonly #responders: ControlResponder[] = [];
  readonly #answers = new Map<string, Promise<AgentReply>>();
  readonly #closing = new Set<Promise<unknown>>();
  readonly #ended: Promise<string>;
  #end: (reason: string) => void = () => undefined;
  #beat: Beat | null = null;
  #records: Subscription | null = null;
  #current: Generation | null = null;
  #term = 0;
  #highest = -1;
  #seq = 0;
  #hadRank = false;
  /** Ranks of others of which the coordinator knows that a copy is here. */
  readonly #announced = new Set<string>();
  /** Why it ends, when it does. */
  #over: string | null = null;
  #leaving: { readonly moved: () => void } | null = null;
  /** Requests that change what runs here, one after another. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: ResolvedAgentOptions, control: NatsConnection, bulk: NatsConnection) {
    const subjects = clusterSubjects(options.job);
    this.id = `${options.name}-${randomBytes(3).toString('hex')}`;
    this.#options = options;
    this.#control = control;
    this.#bulk = bulk;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#blobs = new BlobServer({ nats: bulk, job: options.job, owner: this.id });
    this.#store = new SnapshotStore(this.#blobs);
    this.#keeper = new ReplicaKeeper(this.id, this.#store);
    this.#requester = new ControlRequester(control);
    this.#events = new EventSender(control, subjects.events);
    this.#slots = Array.from(
      { length: options.slots },
      (_, slot) => new Slot(slot, (line) => this.#log(line), options.patience),
    );
    watchConnection(control, { closed: (reason) => this.#end(reason) });
    const denied = (error: Error) => this.#end(`NATS does not let it listen: ${error.message}`);
    this.#responders.push(
      new ControlResponder(control, subjects.agent(this.id), (request) => this.#serve(request as AgentRequest), denied),
      new ControlResponder(control, subjects.replicas(this.id), (offer) => this.#keep(offer as ReplicaOffer), denied),
    );
  }

  /**
   * Connects, and is a member of the job from then on.
   * @throws NatsConnectError, AgentRefusal saying what to start
   */
  static async join(options: ResolvedAgentOptions): Promise<Agent> {
    const { nats, job, name, slots, leaseMs } = options;
    const control = await connectNats({ ...nats, name: `plexus ${job} worker ${name}` });
    let bulk: NatsConnection | null = null;
    let agent: Agent | null = null;
    try {
      bulk = await connectNats({ ...nats, name: `plexus ${job} worker ${name} bulk` });
      const kv = await openBucket(control, job);
      const made = new Agent(options, control, bulk);
      agent = made;
      const beat = new Beat(control, kv, job, made.#record(slots, leaseMs), {
        log: (line) => made.#log(line),
        onLate: (silentMs) => made.#late(silentMs),
      });
      made.#beat = beat;
      made.#followGeneration();
      await control.flush();
      await beat.start();
      made.#log(`is a worker of job '${job}' with ${slots} slot${slots === 1 ? '' : 's'} (plexus ${PLEXUS_VERSION})`);
      return made;
    } catch (error) {
      if (agent) await agent.close('it could not start');
      else await Promise.all([control.close(), bulk?.close()]);
      throw error;
    }
  }

  /** Resolves with the reason when the agent has been told to end, or the first job is over (`once`). */
  get ended(): Promise<string> {
    return this.#ended;
  }

  /** Tells the coordinator and waits until the others have gone on without this agent, for a few seconds at most. */
  async leave(reason: string): Promise<void> {
    const wasSpare = this.#current === null || this.#current.ranks.length === 0;
    this.#log(wasSpare ? `leaves: ${reason}` : `leaves (${reason}): its ranks finish their step`);
    const moved = new Promise<void>((resolve) => {
      this.#leaving = { moved: resolve };
    });
    this.#emit({ type: 'leaving', reason });
    if (wasSpare) {
      await this.#events.drained(1000);
      return;
    }
    await within(Promise.race([moved, this.#ended]), LEAVE_MS);
    // Others may be restoring from what lies here; a release ends the wait.
    if (this.#current) await within(this.#ended, this.#current.ranks.length === 0 ? HANDOVER_MS : LINGER_MS);
  }

  /** Ends everything: ranks, threads, links, the record, the connections. Nothing is left. */
  async close(reason: string): Promise<void> {
    this.#over = reason;
    this.#records?.unsubscribe();
    await this.#turn.catch(() => undefined);
    this.#drop(reason);
    await Promise.all([...this.#closing]);
    await within(Promise.all([this.#events.drained(500), this.#beat?.stop(1000)]), CLOSE_MS);
    // (Late, so that the request that ended it gets its answer.)
    for (const responder of this.#responders) responder.close();
    this.#events.close();
    this.#requester.close();
    await this.#blobs.close();
    await Promise.all(this.#slots.map((slot) => slot.close(CLOSE_MS)));
    await this.#models.remove();
    this.#log(`ends: ${reason}`);
    for (const connection of [this.#control, this.#bulk]) {
      // (A server that is gone by now has nothing more to hear.)
      if (!connection.isClosed())
        await within(
          connection.flush().catch(() => undefined),
          500,
        );
      await connection.close();
    }
  }

  #record(slots: number, leaseMs: number) {
    const { devices } = this.#options;
    return {
      id: this.id,
      life: this.#life,
      version: PLEXUS_VERSION,
      protocol: CLUSTER_PROTOCOL_VERSION,
      host: hostname(),
      hostId: hostId(),
      pid: process.pid,
      runtime: 'Deno' in globalThis ? 'deno' : `node ${process.versions.node}`,
      device: [...new Set(devices.map((device) => device ?? 'as the job says'))].join(', '),
      slots,
      leaseMs,
    };
  }

  /** Answers a request once; one that comes again (also from another connection of the same leader) gets the same answer. */
  #serve(request: AgentRequest): Promise<AgentReply> {
    const key = `${request.term}/${request.seq}`;
    const known = this.#answers.get(key);
    if (known) return known;
    const answer = this.#answer(request).catch((error: Error): AgentReply => {
      if (!(error instanceof AgentRefusal)) this.#log(`could not ${request.type}: ${error.message}`);
      return { ok: false, stale: false, message: `agent ${this.id}: ${error.message}` };
    });
    this.#answers.set(key, answer);
    for (const old of [...this.#answers.keys()].slice(0, -ANSWERS_KEPT)) this.#answers.delete(old);
    return answer;
  }

  async #answer(request: AgentRequest): Promise<AgentReply> {
    if (this.#over !== null) throw new AgentRefusal(`it ends: ${this.#over}`);
    const stale = this.#staleness(request);
    if (stale !== null) return { ok: false, stale: true, message: stale };
    // (Another leader counts its generations from where it likes.)
    if (request.term > this.#term) this.#highest = -1;
    this.#term = request.term;
    switch (request.type) {
      case 'prepare':
        return this.#inTurn(() => this.#prepare(request));
      case 'probe':
        return {
          ok: true,
          type: 'probed',
          reachable: await Promise.all(request.addresses.map((address) => probe(address, PROBE_MS))),
        };
      case 'assign':
        return this.#inTurn(async () => {
          const generation = this.#generation(request);
          generation.assign(request);
          this.#hadRank ||= generation.ranks.length > 0;
          this.#beat?.set({ generation: generation.number, ranks: generation.ranks });
          if (generation.ranks.length > 0)
            this.#log(
              `runs rank${generation.ranks.length > 1 ? 's' : ''} ${generation.ranks.join(', ')} of ${request.members.length} in generation ${generation.number}`,
            );
          return accepted;
        });
      case 'warm':
        this.#warm(request.jobs).catch((error: Error) =>
          this.#log(`could not prepare for ranks that it may get: ${error.message}`),
        );
        return accepted;
      case 'replicate':
        await this.#copy(request.owner, request.snapshot, this.#generation(request));
        return accepted;
      case 'command':
        this.#generation(request).command(request.rank, request.command);
        return accepted;
      case 'release':
        return this.#inTurn(async () => {
          this.#highest = Math.max(this.#highest, request.generation);
          this.#release(request.reason);
          return accepted;
        });
      case 'debug':
        return { ok: true, type: 'debug', ranks: this.#current?.states() ?? [] };
      case 'stop':
        this.#end(request.reason);
        return accepted;
    }
  }

  /** Why a request comes too late, or null. */
  #staleness({ type, term, generation }: AgentRequest): string | null {
    if (term < this.#term)
      return `agent ${this.id} follows the leader of term ${this.#term}, not the one of term ${term}`;
    const bound = type !== 'probe' && type !== 'debug' && type !== 'stop';
    if (bound && term === this.#term && generation < this.#highest)
      return `agent ${this.id} is in generation ${this.#highest}; ${type} of generation ${generation} comes too late`;
    return null;
  }

  async #prepare(request: Extract<AgentRequest, { type: 'prepare' }>): Promise<AgentReply> {
    const { generation: number, version, protocol, secret } = request;
    if (version !== PLEXUS_VERSION || protocol !== CLUSTER_PROTOCOL_VERSION)
      throw new AgentRefusal(
        `it is plexus ${PLEXUS_VERSION} (protocol ${CLUSTER_PROTOCOL_VERSION}), the coordinator is plexus ${version} (protocol ${protocol}): install the same version everywhere`,
      );
    if (number < this.#highest) return { ok: false, stale: true, message: `generation ${number} is over` };
    this.#highest = number;
    const { listen, job, devices, leaseMs } = this.#options;
    const gone = this.#giveUp(`generation ${number} begins`);
    // (A fixed port has to be free again first.)
    if (listen && listen.port !== 0) await within(gone, PORT_MS);
    const generation = await Generation.open({
      agent: this.id,
      job,
      request,
      slots: this.#slots,
      devices,
      listen,
      bulk: this.#bulk,
      leaseMs,
      requester: this.#requester,
      store: this.#store,
      data: this.#data,
      models: this.#models,
      fetch: (signal) => this.#fetcher(secret, signal),
      emit: (event) => {
        if (this.#current === generation) this.#emit(event);
      },
      log: (line) => this.#log(line),
    });
    // What a rank was about to snapshot is newer than what there is, and its thread has to be free anyway.
    await within(Promise.all(this.#slots.map((slot) => slot.free)), SETTLE_MS);
    this.#current = generation;
    this.#blobs.secret = secret;
    this.#announced.clear();
    this.#leaving?.moved();
    return { ok: true, type: 'prepared', addresses: generation.addresses, snapshots: this.#store.list() };
  }

  /** Slots that run no rank compile what these would need. */
  async #warm(jobs: readonly RemoteJob[]): Promise<void> {
    for (const slot of this.#slots) {
      if (this.#current?.uses(slot.index)) continue;
      const device = this.#options.devices[slot.index] ?? null;
      const own = await Promise.all(jobs.map((job) => ownJob(job, device, this.#data, this.#models)));
      // (Meanwhile it may have got one.)
      if (this.#over === null && !this.#current?.uses(slot.index))
        slot.warm(own, (memory) => this.#store.pool.reserve(memory));
    }
  }

  #fetcher(secret: string, signal: AbortSignal): FetchRange {
    return (range) =>
      fetchBlob({ ...range, nats: this.#bulk, job: this.#options.job, secret, deadlineMs: FETCH_MS, signal });
  }

  async #keep({ owner, generation, snapshot }: ReplicaOffer): Promise<{ ok: true }> {
    const current = this.#current;
    if (!current || current.number !== generation)
      throw new AgentRefusal(
        `agent ${this.id} is in generation ${current?.number ?? 'none'}, the snapshot of ${owner} is of generation ${generation}`,
      );
    await this.#copy(owner, snapshot, current);
    return { ok: true };
  }

  /** Copies a snapshot of another agent; the first one of a rank is told, since it says where that rank could go. */
  async #copy(owner: string, snapshot: SnapshotInfo, { fetch, signal }: Generation): Promise<void> {
    const kept = await this.#keeper.keep(owner, snapshot, fetch, signal);
    const key = `${owner}/${snapshot.rank}/${snapshot.tensors.length}`;
    if (!kept || this.#announced.has(key)) return;
    this.#announced.add(key);
    this.#emit({ type: 'snapshots', snapshots: [kept] });
  }

  /** The generation that a request is about. @throws AgentRefusal if it was not prepared */
  #generation({ generation, type }: AgentRequest): Generation {
    if (this.#current?.number === generation) return this.#current;
    throw new AgentRefusal(
      `${type} of generation ${generation}, but ${this.#current ? `generation ${this.#current.number}` : 'none'} was prepared here`,
    );
  }

  #release(reason: string): void {
    this.#drop(reason);
    this.#leaving?.moved();
    if (this.#leaving || (this.#options.once && this.#hadRank)) this.#end(reason);
    else if (this.#hadRank) this.#log(`is spare again: ${reason}`);
    this.#hadRank = false;
  }

  /** Gives up the generation and forgets its snapshots. */
  #drop(reason: string): void {
    void this.#giveUp(reason);
    this.#store.clear();
    this.#beat?.set({ generation: null, ranks: [] });
  }

  /** Gives up the generation; its snapshots stay. */
  #giveUp(reason: string): Promise<unknown> {
    const generation = this.#current;
    this.#current = null;
    if (!generation) return Promise.resolve();
    const closing: Promise<unknown> = generation
      .abort(reason)
      .catch((error: Error) => this.#log(`generation ${generation.number} did not end in good order: ${error.message}`))
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
    return closing;
  }

  /** The bucket's record of the generation is a message like any other, also after a reconnect. */
  #followGeneration(): void {
    const subject = `$KV.${clusterKeys.bucket(this.#options.job)}.${clusterKeys.generation}`;
    this.#records = this.#control.subscribe(subject, {
      callback: (error, message) => {
        // (Without the permission, the record is looked up when the lease was late.)
        if (error || message.data.length === 0) return;
        this.#moved(message.json<GenerationRecord>());
      },
    });
  }

  /** No beat has left for longer than the lease: this process was frozen, or cut off. */
  #late(silentMs: number): void {
    this.#log(`was not heard for ${(silentMs / 1000).toFixed(1)} s, longer than its lease`);
    this.#beat?.generation().then(
      (record) => record && this.#moved(record),
      (error: Error) => this.#log(`could not look up the generation: ${error.message}`),
    );
  }

  /** The job is in this generation: if it went on without this agent, the agent is spare. */
  #moved({ generation, members }: GenerationRecord): void {
    const current = this.#current;
    if (!current || generation <= current.number || members.some(({ agent }) => agent === this.id)) return;
    if (this.#leaving) {
      // What lies here may be wanted yet.
      this.#leaving.moved();
      return;
    }
    this.#log(`is spare again: generation ${generation} began without it`);
    this.#highest = Math.max(this.#highest, generation);
    this.#drop(`generation ${generation} began without agent ${this.id}`);
  }

  #emit(event: EventBody): void {
    const generation = this.#current?.number ?? this.#highest;
    const full = { ...event, agent: this.id, life: this.#life, generation, seq: this.#seq++ } as AgentEvent;
    try {
      this.#events.send(full);
    } catch (error) {
      // Nobody has taken events for long: this rank's reports are lost, so it cannot be part of the run any more.
      this.#log(`gives up its ranks: ${(error as Error).message}`);
      this.#drop('its reports could not be delivered');
    }
  }

  #log(text: string): void {
    this.#options.log(`${this.id} ${text}`);
    if (this.#control.isClosed()) return;
    const line = { agent: this.id, time: Date.now(), level: 'info', text };
    this.#control.publish(clusterSubjects(this.#options.job).logs, JSON.stringify(line));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work, work);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

const accepted: AgentReply = { ok: true, type: 'accepted' };

/** Waits for something, or until the time is up. */
async function within(wait: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([wait, late]).finally(() => clearTimeout(timer));
}
