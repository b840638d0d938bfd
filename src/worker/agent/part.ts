import type { NatsConnection } from '@nats-io/transport-node';
import { BlobServer, type ControlRequester, fetchBlob } from '../../comm/index.ts';
import { DataCache } from './data-cache.ts';
import { Generation } from './generation.ts';
import { ModelFolder } from './model.ts';
import type { ResolvedAgentOptions } from './options.ts';
import { ownJob } from './own-job.ts';
import {
  type AgentReply,
  type AgentRequest,
  CLUSTER_PROTOCOL_VERSION,
  type RemoteJob,
  type ReplicaOffer,
  type SnapshotInfo,
} from './protocol.ts';
import type { EventBody } from './rank-run.ts';
import { AgentRefusal } from './refusal.ts';
import { ReplicaKeeper } from './replicate.ts';
import type { Requests } from './requests.ts';
import type { FetchRange } from './restore.ts';
import { Slot } from './slot.ts';
import { SnapshotStore } from './snapshot-store.ts';
import { PLEXUS_VERSION } from './version.ts';
import { within } from './within.ts';

/** How long a fetch of tensors may take, in milliseconds. */
const FETCH_MS = 120_000;
/** How long a new generation may wait for the threads of the one before to let go. */
const SETTLE_MS = 1000;
/** How long a fixed port of the generation before may take to be free again. */
const PORT_MS = 1000;

/** What an agent takes part with. */
export interface PartOptions {
  /** The agent's id. */
  readonly agent: string;
  readonly options: ResolvedAgentOptions;
  readonly bulk: NatsConnection;
  readonly requester: ControlRequester;
  readonly requests: Requests;
  readonly emit: (event: EventBody) => void;
  readonly log: (line: string) => void;
}

/** An agent's part in the job: its slots, the generations that it is in, one after another, and all snapshots here. */
export class Part {
  readonly #options: PartOptions;
  readonly #slots: readonly Slot[];
  readonly #models = new ModelFolder();
  readonly #data = new DataCache();
  readonly #blobs: BlobServer;
  readonly #store: SnapshotStore;
  readonly #keeper: ReplicaKeeper;
  readonly #closing = new Set<Promise<unknown>>();
  /** Ranks of others of which the coordinator knows that a copy is here. */
  readonly #announced = new Set<string>();
  #current: Generation | null = null;

  constructor(options: PartOptions) {
    const { agent, bulk, log } = options;
    const { job, slots, patience } = options.options;
    this.#options = options;
    this.#slots = Array.from({ length: slots }, (_, slot) => new Slot(slot, log, patience));
    this.#blobs = new BlobServer({ nats: bulk, job, owner: agent });
    this.#store = new SnapshotStore(this.#blobs);
    this.#keeper = new ReplicaKeeper(agent, this.#store);
  }

  /** The generation that the agent is in, or null. */
  get current(): Generation | null {
    return this.#current;
  }

  /** The generation that a request is about. @throws AgentRefusal if it was not prepared */
  of({ generation, type }: AgentRequest): Generation {
    if (this.#current?.number === generation) return this.#current;
    throw new AgentRefusal(
      `${type} of generation ${generation}, but ${this.#current ? `generation ${this.#current.number}` : 'none'} was prepared here`,
    );
  }

  /**
   * Gives up the generation before, and opens addresses for this one.
   * @throws AgentRefusal if the coordinator is of another version; what opening throws
   */
  async prepare(request: Extract<AgentRequest, { type: 'prepare' }>): Promise<AgentReply> {
    const { generation: number, version, protocol, secret } = request;
    if (version !== PLEXUS_VERSION || protocol !== CLUSTER_PROTOCOL_VERSION)
      throw new AgentRefusal(
        `it is plexus ${PLEXUS_VERSION} (protocol ${CLUSTER_PROTOCOL_VERSION}), the coordinator is plexus ${version} (protocol ${protocol}): install the same version everywhere`,
      );
    const { agent, options, bulk, requester, requests, emit, log } = this.#options;
    const { listen, job, devices, leaseMs } = options;
    if (number < requests.generation) return { ok: false, stale: true, message: `generation ${number} is over` };
    requests.reached(number);
    const gone = this.giveUp(`generation ${number} begins`);
    // (A fixed port has to be free again first.)
    if (listen && listen.port !== 0) await within(gone, PORT_MS);
    const generation = await Generation.open({
      agent,
      job,
      request,
      slots: this.#slots,
      devices,
      listen,
      bulk,
      leaseMs,
      requester,
      store: this.#store,
      data: this.#data,
      models: this.#models,
      fetch: (signal) => this.#fetcher(secret, signal),
      emit: (event) => {
        if (this.#current === generation) emit(event);
      },
      log,
    });
    // What a rank was about to snapshot is newer than what there is, and its thread has to be free anyway.
    await within(Promise.all(this.#slots.map((slot) => slot.free)), SETTLE_MS);
    this.#current = generation;
    this.#blobs.secret = secret;
    this.#announced.clear();
    return { ok: true, type: 'prepared', addresses: generation.addresses, snapshots: this.#store.list() };
  }

  /** Slots that run no rank compile what these would need. */
  async warm(jobs: readonly RemoteJob[]): Promise<void> {
    for (const slot of this.#slots) {
      if (this.#current?.uses(slot.index)) continue;
      const device = this.#options.options.devices[slot.index] ?? null;
      const own = await Promise.all(jobs.map((job) => ownJob(job, device, this.#data, this.#models)));
      // (Meanwhile it may have got one, or the agent may end.)
      if (this.#options.requests.open && !this.#current?.uses(slot.index))
        slot.warm(own, (memory) => this.#store.pool.reserve(memory));
    }
  }

  /** Copies what another agent offers. @throws AgentRefusal if that is of another generation */
  async keep({ owner, generation, snapshot }: ReplicaOffer): Promise<{ ok: true }> {
    const current = this.#current;
    if (!current || current.number !== generation)
      throw new AgentRefusal(
        `agent ${this.#options.agent} is in generation ${current?.number ?? 'none'}, the snapshot of ${owner} is of generation ${generation}`,
      );
    await this.copy(owner, snapshot, current);
    return { ok: true };
  }

  /** Copies a snapshot of another agent; the first one of a rank is told, since it says where that rank could go. */
  async copy(owner: string, snapshot: SnapshotInfo, { fetch, signal }: Generation): Promise<void> {
    const kept = await this.#keeper.keep(owner, snapshot, fetch, signal);
    const key = `${owner}/${snapshot.rank}/${snapshot.tensors.length}`;
    if (!kept || this.#announced.has(key)) return;
    this.#announced.add(key);
    this.#options.emit({ type: 'snapshots', snapshots: [kept] });
  }

  /** Gives up the generation; its snapshots stay. Resolves when its links are closed. */
  giveUp(reason: string): Promise<unknown> {
    const generation = this.#current;
    this.#current = null;
    if (!generation) return Promise.resolve();
    const closing: Promise<unknown> = generation
      .abort(reason)
      .catch((error: Error) =>
        this.#options.log(`generation ${generation.number} did not end in good order: ${error.message}`),
      )
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
    return closing;
  }

  /** Gives up the generation and forgets its snapshots. */
  drop(reason: string): void {
    void this.giveUp(reason);
    this.#store.clear();
  }

  /** Resolves when all that was given up is closed. */
  async closed(): Promise<void> {
    await Promise.all([...this.#closing]);
  }

  /** Ends the threads, by force those that do not end by themselves within `deadlineMs`, and removes what was written. */
  async close(deadlineMs: number): Promise<void> {
    await this.#blobs.close();
    await Promise.all(this.#slots.map((slot) => slot.close(deadlineMs)));
    await this.#models.remove();
  }

  #fetcher(secret: string, signal: AbortSignal): FetchRange {
    const { bulk, options } = this.#options;
    return (range) => fetchBlob({ ...range, nats: bulk, job: options.job, secret, deadlineMs: FETCH_MS, signal });
  }
}
