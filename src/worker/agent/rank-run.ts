import { MessageChannel, type MessagePort } from 'node:worker_threads';
import {
  type ControlRequester,
  type Endpoint,
  LinkError,
  type LinkKind,
  type Relay,
  relayAll,
} from '../../comm/index.ts';
import { readFlight } from '../flight-reader.ts';
import { createProgress } from '../flight-recorder.ts';
import type { WorkerCommand, WorkerEvent, WorkerJob } from '../protocol.ts';
import type { Arrival } from './arrivals.ts';
import type { HeldBytes } from './copies.ts';
import type { DataCache } from './data-cache.ts';
import { goodbye, isGoodbye } from './goodbye.ts';
import type { ModelFolder } from './model.ts';
import { ownJob } from './own-job.ts';
import type { AgentEvent, AgentRequest, RankState, SlotAddresses, SnapshotCommand } from './protocol.ts';
import { Replicator } from './replicate.ts';
import { type FetchRange, type Gathering, gather } from './restore.ts';
import { crashReport, type RunningRank, type Slot } from './slot.ts';
import type { SnapshotStore } from './snapshot-store.ts';

/** One entry of an `assign` request. */
export type Assignment = Extract<AgentRequest, { type: 'assign' }>['ranks'][number];

/** An event without what all of them carry. */
export type EventBody = AgentEvent extends infer E
  ? E extends AgentEvent
    ? Omit<E, 'agent' | 'life' | 'generation' | 'seq'>
    : never
  : never;

/** What a rank's run shares with the agent around it. */
export interface RankRunOptions {
  /** The agent's id. */
  readonly agent: string;
  readonly job: string;
  readonly generation: number;
  readonly assignment: Assignment;
  /** By rank. */
  readonly addresses: readonly SlotAddresses[];
  readonly snapshotEvery: number;
  /** All ranks of the generation that run in this agent. */
  readonly ranks: readonly number[];
  readonly slot: Slot;
  /** Null where all peers are in this process. */
  readonly endpoint: Endpoint;
  /** Ports to the ranks of this process, by rank. */
  readonly localPorts: ReadonlyMap<number, MessagePort>;
  /** The slot's device, or null for the job's. */
  readonly device: string | null;
  readonly data: DataCache;
  /** Folder for compiled module files. */
  readonly models: ModelFolder;
  readonly store: SnapshotStore;
  readonly fetch: FetchRange;
  readonly requester: ControlRequester;
  readonly emit: (event: EventBody) => void;
  readonly log: (line: string) => void;
  /** Ends with the generation. */
  readonly signal: AbortSignal;
}

/** How long after a snapshot found no memory it is tried again, in milliseconds. */
const SNAPSHOT_RETRY_MS = 20;

/** One rank in one generation: its thread, its links, its snapshots. */
export class RankRun {
  readonly rank: number;
  readonly #options: RankRunOptions;
  readonly #progress = createProgress();
  readonly #control: MessagePort;
  /** The thread's ends of channels that it has not been given yet. */
  #unsent: MessagePort[] = [];
  #relays: readonly (Relay | null)[] = [];
  readonly #replicator: Replicator | null;
  /** Snapshots that the coordinator reads, by blob. */
  readonly #read = new Map<string, HeldBytes>();
  readonly #commands: WorkerCommand[] = [];
  #snapshotAsked: { readonly id: number; readonly until: number } | null = null;
  #running: RunningRank | null = null;
  #gathering: Gathering | null = null;
  #over = false;
  readonly #began = performance.now();
  /** Milliseconds until the thread was given the rank. */
  #startMs = 0;

  constructor(options: RankRunOptions) {
    const { assignment, generation, agent, job, store, requester, log, signal } = options;
    this.rank = assignment.job.rank;
    this.#options = options;
    const channel = new MessageChannel();
    this.#control = channel.port1;
    this.#unsent.push(channel.port2);
    this.#control.on('message', (event: WorkerEvent) => this.#receive(event));
    const { replicate: target } = assignment;
    this.#replicator = target
      ? new Replicator({ agent, job, generation, rank: this.rank, target, store, requester, log, signal })
      : null;
  }

  /** Begins everything at once: links, tensors, thread. What goes wrong is told as an event. */
  start(): void {
    const { assignment, agent, store, fetch } = this.#options;
    const { restore, links } = assignment;
    const remote: (MessagePort | null)[] = links.map(() => null);
    const ports = links.map((kind, peer): MessagePort | null => {
      if (kind === '-') return null;
      if (kind === 'local') return this.#options.localPorts.get(peer) ?? null;
      const { port1, port2 } = new MessageChannel();
      remote[peer] = port1;
      this.#unsent.push(port2);
      return port2;
    });
    if (restore) this.#gathering = gather(agent, restore.sources, store, fetch);
    this.#connect(links, remote).catch((error: Error) => {
      if (error instanceof LinkError && !this.#over)
        this.#options.emit({ type: 'link-lost', rank: this.rank, peer: error.peer, reason: error.message });
      this.#fail(error, true);
    });
    this.#launch(ports, restore?.step ?? null).catch((error: Error) => this.#fail(error, false));
  }

  /** Something for the rank to do, after all that was said before. */
  command(command: WorkerCommand | SnapshotCommand): void {
    if (command.type === 'free') {
      this.#read.get(command.blob)?.release();
      this.#read.delete(command.blob);
      return;
    }
    this.#commands.push(command);
    this.#pump();
  }

  /** What the rank is doing and did last, also when its thread is stuck. */
  state(): RankState {
    const { generation, assignment } = this.#options;
    const { train, evaluate } = assignment.job;
    return readFlight({ rank: this.rank, generation, progress: this.#progress, train, evaluate });
  }

  /** Gives everything up; the thread is free when its slot says so. */
  abort(reason: string): Promise<unknown> {
    this.#over = true;
    this.#running?.abort();
    this.#control.close();
    for (const port of this.#unsent) port.close();
    this.#unsent = [];
    this.#letGo();
    return Promise.all(this.#relays.map((relay) => relay?.close(goodbye(reason))));
  }

  async #connect(links: readonly (LinkKind | '-')[], ports: readonly (MessagePort | null)[]): Promise<void> {
    if (ports.every((port) => port === null)) return;
    const { endpoint, addresses, emit } = this.#options;
    const kinds = links.map((kind) => (kind === 'local' ? '-' : kind));
    const wanted = addresses.map((address, peer) => (ports[peer] ? address : null));
    this.#relays = await relayAll(endpoint, wanted, kinds, ports, (peer, side, reason) => {
      if (side === 'link' && !this.#over && !isGoodbye(reason))
        emit({ type: 'link-lost', rank: this.rank, peer, reason });
    });
    if (this.#over) await Promise.all(this.#relays.map((relay) => relay?.close(goodbye('it was given up'))));
  }

  async #launch(ports: readonly (MessagePort | null)[], step: number | null): Promise<void> {
    const { generation, assignment, data, models, device, slot, snapshotEvery } = this.#options;
    const [own] = await Promise.all([ownJob(assignment.job, device, data, models), slot.free]);
    if (this.#over) return;
    const job: WorkerJob = { ...own, progress: this.#progress };
    const control = this.#unsent[0] as MessagePort;
    this.#unsent = [];
    this.#startMs = performance.now() - this.#began;
    const arrivals = new MessageChannel();
    const initial = this.#gathering && {
      step: step as number,
      tensors: this.#gathering.tensors,
      arrived: arrivals.port2,
    };
    this.#running = slot.start({ generation, job, ports, control, initial, snapshotEvery }, (error) => {
      if (!this.#over) this.#options.emit({ type: 'worker', rank: this.rank, event: crashReport(this.rank, error) });
    });
    if (!this.#gathering) {
      arrivals.port1.close();
      arrivals.port2.close();
      return;
    }
    const tell = (arrival: Arrival) => arrivals.port1.postMessage(arrival);
    this.#gathering.follow((piece, bytes) => tell({ piece, bytes }));
    await this.#gathering.arrived.catch((error: Error) =>
      tell({ problem: `its tensors of step ${step} did not come: ${error.message}` }),
    );
    arrivals.port1.close();
  }

  #receive(event: WorkerEvent): void {
    if (this.#over) return;
    if (event.type === 'snapshotted') {
      this.#snapshotted(event);
      return;
    }
    if (event.type === 'ready') {
      this.#keepRestored();
      const phases = { ...event.phases, start: this.#startMs };
      this.#options.emit({ type: 'worker', rank: this.rank, event: { ...event, phases } });
      return;
    }
    this.#options.emit({ type: 'worker', rank: this.rank, event });
    if (event.type === 'failed' || event.type === 'stopped') this.#letGo();
  }

  #snapshotted({ id, step, share, digests }: Extract<WorkerEvent, { type: 'snapshotted' }>): void {
    const { store, generation, ranks, emit } = this.#options;
    if (share) store.addRank(generation, share);
    if (step !== null) {
      store.took(generation, this.rank, ranks);
      this.#replicator?.poke();
    }
    if (id === null) return;
    const found = step === null ? null : store.at(generation, this.rank, step);
    if (found) {
      this.#read.set(found.info.blob, found.held);
      emit({ type: 'snapshot', rank: this.rank, id, snapshot: found.info, digests });
      this.#snapshotAsked = null;
      this.#pump();
      return;
    }
    // All memory is being read: the rank waits for some, rather than going on past the position that is wanted.
    if (this.#snapshotAsked && performance.now() > this.#snapshotAsked.until) {
      const { deadlineMs } = this.#options.assignment.job;
      this.#fail(
        new Error(
          `rank ${this.rank} found no memory for a snapshot for ${deadlineMs} ms: all that it has is still being read; write checkpoints less often, or to a faster disk`,
        ),
        false,
      );
      return;
    }
    setTimeout(() => {
      if (!this.#over) this.#control.postMessage({ type: 'snapshot', id } satisfies WorkerCommand);
    }, SNAPSHOT_RETRY_MS);
  }

  /** What the rank was restored from stays until it has snapshots of its own, and is copied on meanwhile. */
  #keepRestored(): void {
    const { agent, generation, assignment, store } = this.#options;
    const { restore } = assignment;
    const gathering = this.#gathering;
    if (!gathering || !restore) return;
    const of = { generation, rank: this.rank, step: restore.step };
    const fetched = gathering.fetched.map(({ tensors, buffer }) => store.addRestored(agent, of, tensors, buffer).blob);
    gathering.release();
    this.#replicator?.begin([...gathering.own, ...fetched]);
  }

  /** Commands go to the thread in order; none passes a snapshot that was asked for before it is held. */
  #pump(): void {
    while (!this.#over && this.#snapshotAsked === null) {
      const command = this.#commands.shift();
      if (!command) return;
      if (command.type === 'snapshot') {
        const { deadlineMs } = this.#options.assignment.job;
        this.#snapshotAsked = { id: command.id, until: performance.now() + deadlineMs };
      }
      this.#control.postMessage(command);
    }
  }

  /** The rank cannot begin or go on, and cannot say so itself. */
  #fail(error: Error, secondary: boolean): void {
    if (this.#over) return;
    const event = crashReport(this.rank, error);
    if (event.type !== 'failed') return;
    this.#options.log(`rank ${this.rank}: ${error.message}`);
    this.#options.emit({
      type: 'worker',
      rank: this.rank,
      event: { type: 'failed', report: { ...event.report, secondary } },
    });
  }

  #letGo(): void {
    this.#gathering?.release();
    for (const held of this.#read.values()) held.release();
    this.#read.clear();
  }
}
