import { MessageChannel, type MessagePort } from 'node:worker_threads';
import type { NatsConnection } from '@nats-io/transport-node';
import { type ControlRequester, type Endpoint, openEndpoint } from '../../comm/index.ts';
import type { WorkerCommand } from '../protocol.ts';
import type { DataCache } from './data-cache.ts';
import { goodbye } from './goodbye.ts';
import type { ModelFolder } from './model.ts';
import type { AgentRequest, RankState, SlotAddresses, SnapshotCommand } from './protocol.ts';
import { type EventBody, RankRun } from './rank-run.ts';
import { AgentRefusal } from './refusal.ts';
import type { FetchRange } from './restore.ts';
import type { Slot } from './slot.ts';
import type { SnapshotStore } from './snapshot-store.ts';

type Prepare = Extract<AgentRequest, { type: 'prepare' }>;
type Assign = Extract<AgentRequest, { type: 'assign' }>;

/** What a generation uses of the agent. */
export interface GenerationOptions {
  /** The agent's id. */
  readonly agent: string;
  readonly job: string;
  readonly request: Prepare;
  /** All slots of the agent. */
  readonly slots: readonly Slot[];
  /** By slot; null leaves it to the job. */
  readonly devices: readonly (string | null)[];
  readonly listen: { readonly host: string; readonly port: number } | undefined;
  readonly bulk: NatsConnection;
  /** Silence after which a direct link counts as broken. */
  readonly leaseMs: number;
  readonly requester: ControlRequester;
  readonly store: SnapshotStore;
  readonly data: DataCache;
  readonly models: ModelFolder;
  /** Fetches with this generation's secret, until the signal is raised. */
  readonly fetch: (signal: AbortSignal) => FetchRange;
  readonly emit: (event: EventBody) => void;
  readonly log: (line: string) => void;
}

/** How long the links of a rank may take to be made, in milliseconds. A peer that dies meanwhile ends the generation. */
const CONNECT_MS = 60_000;

/** An agent's part in one generation: first the addresses of its slots, then their ranks. */
export class Generation {
  readonly number: number;
  readonly #options: GenerationOptions;
  /** By slot. */
  readonly #endpoints = new Map<number, Endpoint>();
  /** By rank. */
  readonly #runs = new Map<number, RankRun>();
  readonly #abort = new AbortController();
  readonly fetch: FetchRange;

  private constructor(options: GenerationOptions) {
    this.number = options.request.generation;
    this.#options = options;
    this.fetch = options.fetch(this.#abort.signal);
  }

  /**
   * Opens addresses for the slots.
   * @throws AgentRefusal if there is no such slot; what opening throws (a port that is taken)
   */
  static async open(options: GenerationOptions): Promise<Generation> {
    const generation = new Generation(options);
    const { slots, ranks } = options.request;
    try {
      const opened = await Promise.allSettled(
        slots.map(async (slot, i) => {
          generation.#endpoints.set(slot, await generation.#openSlot(slot, ranks[i]));
        }),
      );
      const failed = opened.find((result) => result.status === 'rejected');
      if (failed) throw failed.reason;
      return generation;
    } catch (error) {
      await generation.abort('its addresses could not be opened');
      throw error;
    }
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get ranks(): number[] {
    return [...this.#runs.keys()].sort((a, b) => a - b);
  }

  get addresses(): SlotAddresses[] {
    return [...this.#endpoints].map(([slot, { address }]) => ({ slot, ...address }));
  }

  /** Starts the ranks. @throws AgentRefusal if they are not those of `prepare` */
  assign(request: Assign): void {
    if (this.#runs.size > 0) throw new AgentRefusal(`generation ${this.number} has its ranks already`);
    const { slots, ranks: expected } = this.#options.request;
    for (const { slot, job } of request.ranks)
      if (expected[slots.indexOf(slot)] !== job.rank)
        throw new AgentRefusal(
          `slot ${slot} was prepared for rank ${expected[slots.indexOf(slot)] ?? 'none'} of generation ${this.number}, not for rank ${job.rank}`,
        );
    // Where the run goes on: what came later was not completed by all.
    for (const { restore } of request.ranks) if (restore) this.#options.store.rollBack(restore.step);
    const ranks = request.ranks.map(({ job }) => job.rank);
    const local = portsBetween(ranks);
    for (const assignment of request.ranks) {
      const { agent, job, slots: own, devices, data, models, store, requester, emit, log } = this.#options;
      const run = new RankRun({
        agent,
        job,
        generation: this.number,
        assignment,
        addresses: request.addresses,
        snapshotEvery: request.snapshotEvery,
        ranks,
        slot: own[assignment.slot] as Slot,
        endpoint: this.#endpoints.get(assignment.slot) as Endpoint,
        localPorts: local.get(assignment.job.rank) as Map<number, MessagePort>,
        device: devices[assignment.slot] ?? null,
        data,
        models,
        store,
        fetch: this.fetch,
        requester,
        emit,
        log,
        signal: this.#abort.signal,
      });
      this.#runs.set(run.rank, run);
    }
    for (const run of this.#runs.values()) run.start();
  }

  /** @throws AgentRefusal if the rank does not run here */
  command(rank: number, command: WorkerCommand | SnapshotCommand): void {
    const run = this.#runs.get(rank);
    if (!run)
      throw new AgentRefusal(`rank ${rank} does not run here in generation ${this.number}; here are ${this.ranks}`);
    run.command(command);
  }

  /** Whether a slot has a rank in this generation, or is going to. */
  uses(slot: number): boolean {
    return this.#options.request.slots.includes(slot);
  }

  /** What each rank is doing. */
  states(): RankState[] {
    return [...this.#runs.values()].map((run) => run.state());
  }

  /** Gives the generation up; resolves when its links and addresses are closed. */
  async abort(reason: string): Promise<void> {
    if (!this.#abort.signal.aborted) this.#abort.abort(new Error(`generation ${this.number} was given up: ${reason}`));
    // Each link says good-bye through its relay first; what never became a link is cut.
    const { slots, ranks } = this.#options.request;
    await Promise.all(
      slots.map(async (slot, i) => {
        await this.#runs.get(ranks[i] as number)?.abort(reason);
        await this.#endpoints.get(slot)?.close(goodbye(reason), 'abort');
      }),
    );
  }

  async #openSlot(slot: number, rank: number | undefined): Promise<Endpoint> {
    const { job, request, slots, listen, bulk, leaseMs } = this.#options;
    if (!slots[slot] || rank === undefined)
      throw new AgentRefusal(`there is no slot ${slot} for rank ${rank}; this agent has ${slots.length} slots`);
    const { generation, world, secret } = request;
    return openEndpoint({
      job,
      generation,
      rank,
      world,
      secret,
      nats: bulk,
      deadlineMs: CONNECT_MS,
      silenceMs: leaseMs,
      ...(listen ? { listen: { host: listen.host, port: listen.port === 0 ? 0 : listen.port + slot } } : {}),
    });
  }
}

/** Channels between the ranks of this process: by rank, the ports to the others. */
function portsBetween(ranks: readonly number[]): Map<number, Map<number, MessagePort>> {
  const ports = new Map(ranks.map((rank) => [rank, new Map<number, MessagePort>()]));
  for (const [i, a] of ranks.entries())
    for (const b of ranks.slice(i + 1)) {
      const { port1, port2 } = new MessageChannel();
      ports.get(a)?.set(b, port1);
      ports.get(b)?.set(a, port2);
    }
  return ports;
}
