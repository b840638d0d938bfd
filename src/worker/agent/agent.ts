import { randomBytes } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import {
  ControlRequester,
  ControlResponder,
  connectNats,
  EventSender,
  probe,
  watchConnection,
} from '../../comm/index.ts';
import { Beat, openBucket } from './beat.ts';
import { GenerationRecords } from './generation-records.ts';
import { writeLogLine } from './log-line.ts';
import { memberRecord } from './member-record.ts';
import type { ResolvedAgentOptions } from './options.ts';
import { Part } from './part.ts';
import {
  type AgentEvent,
  type AgentReply,
  type AgentRequest,
  clusterSubjects,
  type GenerationRecord,
  type ReplicaOffer,
} from './protocol.ts';
import type { EventBody } from './rank-run.ts';
import { Requests } from './requests.ts';
import { PLEXUS_VERSION } from './version.ts';
import { within } from './within.ts';

/** How long a try to reach an address may take, in milliseconds. */
const PROBE_MS = 1500;
/**
 * How long an agent that leaves waits for the others to go on without it; then for them to fetch what it holds, if it was
 * not asked to stay for that; and if it was, for its release.
 */
const LEAVE_MS = 8000;
const LINGER_MS = 2000;
const HANDOVER_MS = 15_000;
/** How long the end of anything may take: threads, connections, the record. */
const CLOSE_MS = 3000;

/** One `plexus worker` process: serves the coordinator's requests, runs ranks in its slots, keeps snapshots. */
export class Agent {
  readonly id: string;
  readonly #life = randomBytes(8).toString('hex');
  readonly #options: ResolvedAgentOptions;
  readonly #control: NatsConnection;
  readonly #bulk: NatsConnection;
  readonly #requester: ControlRequester;
  readonly #requests: Requests;
  readonly #part: Part;
  readonly #events: EventSender;
  readonly #responders: ControlResponder[] = [];
  readonly #ended: Promise<string>;
  #end: (reason: string) => void = () => undefined;
  #beat: Beat | null = null;
  #record: GenerationRecords | null = null;
  #seq = 0;
  #hadRank = false;
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
    this.#requester = new ControlRequester(control);
    this.#events = new EventSender(control, subjects.events);
    this.#requests = new Requests(this.id, {
      over: () => this.#over,
      answer: (request) => this.#answer(request),
      log: (line) => this.#log(line),
    });
    this.#part = new Part({
      agent: this.id,
      options,
      bulk,
      requester: this.#requester,
      requests: this.#requests,
      emit: (event) => this.#emit(event),
      log: (line) => this.#log(line),
    });
    watchConnection(control, { closed: (reason) => this.#end(reason) });
    const denied = (error: Error) => this.#end(`NATS does not let it listen: ${error.message}`);
    this.#responders.push(
      new ControlResponder(
        control,
        subjects.agent(this.id),
        (request) => this.#requests.serve(request as AgentRequest),
        denied,
      ),
      new ControlResponder(
        control,
        subjects.replicas(this.id),
        (offer) => this.#part.keep(offer as ReplicaOffer),
        denied,
      ),
    );
  }

  /**
   * Connects, and is a member of the job from then on.
   * @throws NatsConnectError, AgentRefusal saying what to start
   */
  static async join(options: ResolvedAgentOptions): Promise<Agent> {
    const { nats, job, name, slots } = options;
    const control = await connectNats({ ...nats, name: `plexus ${job} worker ${name}` });
    let bulk: NatsConnection | null = null;
    let agent: Agent | null = null;
    try {
      bulk = await connectNats({ ...nats, name: `plexus ${job} worker ${name} bulk` });
      const kv = await openBucket(control, job);
      const made = new Agent(options, control, bulk);
      agent = made;
      const log = (line: string) => made.#log(line);
      const beat = new Beat(control, kv, job, memberRecord(made.id, made.#life, options), {
        log,
        onLate: (silentMs) => made.#record?.late(silentMs),
      });
      made.#beat = beat;
      made.#record = new GenerationRecords(control, job, beat, log, (record) => made.#moved(record));
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
    const wasSpare = this.#part.current === null || this.#part.current.ranks.length === 0;
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
    if (this.#part.current) await within(this.#ended, this.#part.current.ranks.length === 0 ? HANDOVER_MS : LINGER_MS);
  }

  /** Ends everything: ranks, threads, links, the record, the connections. Nothing is left. */
  async close(reason: string): Promise<void> {
    this.#over = reason;
    this.#record?.close();
    await this.#turn.catch(() => undefined);
    this.#drop(reason);
    await this.#part.closed();
    await within(Promise.all([this.#events.drained(500), this.#beat?.stop(1000)]), CLOSE_MS);
    // (Late, so that the request that ended it gets its answer.)
    for (const responder of this.#responders) responder.close();
    this.#events.close();
    this.#requester.close();
    await this.#part.close(CLOSE_MS);
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

  async #answer(request: AgentRequest): Promise<AgentReply> {
    switch (request.type) {
      case 'prepare':
        return this.#inTurn(async () => {
          const prepared = await this.#part.prepare(request);
          if (prepared.ok) this.#leaving?.moved();
          return prepared;
        });
      case 'probe':
        return {
          ok: true,
          type: 'probed',
          reachable: await Promise.all(request.addresses.map((address) => probe(address, PROBE_MS))),
        };
      case 'assign':
        return this.#inTurn(async () => {
          const generation = this.#part.of(request);
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
        this.#part
          .warm(request.jobs)
          .catch((error: Error) => this.#log(`could not prepare for ranks that it may get: ${error.message}`));
        return accepted;
      case 'replicate':
        await this.#part.copy(request.owner, request.snapshot, this.#part.of(request));
        return accepted;
      case 'command':
        this.#part.of(request).command(request.rank, request.command);
        return accepted;
      case 'release':
        return this.#inTurn(async () => {
          this.#requests.reached(request.generation);
          this.#release(request.reason);
          return accepted;
        });
      case 'debug':
        return { ok: true, type: 'debug', ranks: this.#part.current?.states() ?? [] };
      case 'stop':
        this.#end(request.reason);
        return accepted;
    }
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
    this.#part.drop(reason);
    this.#beat?.set({ generation: null, ranks: [] });
  }

  /** The job is in this generation: if it went on without this agent, the agent is spare. */
  #moved({ generation, members }: GenerationRecord): void {
    const current = this.#part.current;
    if (!current || generation <= current.number || members.some(({ agent }) => agent === this.id)) return;
    if (this.#leaving) {
      // What lies here may be wanted yet.
      this.#leaving.moved();
      return;
    }
    this.#log(`is spare again: generation ${generation} began without it`);
    this.#requests.reached(generation);
    this.#drop(`generation ${generation} began without agent ${this.id}`);
  }

  #emit(event: EventBody): void {
    const generation = this.#part.current?.number ?? this.#requests.generation;
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
    writeLogLine(this.#control, this.#options.job, this.id, text);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work, work);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

const accepted: AgentReply = { ok: true, type: 'accepted' };
