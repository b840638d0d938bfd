import type { Underway } from '../../coordinator/index.ts';
import type { Partition } from '../../data/index.ts';
import { createRng } from '../../tensor/index.ts';
import { type AsyncServer, fitWithoutRounds } from './async-server.ts';
import type { ClientBehaviour } from './behaviour.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientReport, SharedStart } from './fit-task.ts';
import type { Dropped, LocalWork } from './simulation.ts';
import { type AnswerBounds, type NewVersion, refusedAnswer, VersionBuffer } from './version-buffer.ts';

/** What a simulation without rounds is made of. */
export interface AsyncSimulationOptions extends AnswerBounds {
  readonly pool: FitPool;
  readonly partition: Partition;
  readonly server: AsyncServer;
  readonly behaviour: ClientBehaviour;
  readonly seed: number;
  /** Clients that train at the same time. */
  readonly concurrency: number;
  readonly local: LocalWork;
  /** Simulated seconds after which nobody waits for a client any more; null or absent waits for all that will answer. */
  readonly deadlineSeconds?: number | null;
}

/** A new version of the parameters, in simulated time. */
export interface VersionReport extends NewVersion {
  /** Simulated time at which it was made, in seconds. */
  readonly time: number;
}

/** A client that trains: all that its fit follows from, besides the seed and the version that it began with. */
export interface FlightRecord {
  readonly client: number;
  /** Number of the fit, which its randomness is drawn by. */
  readonly number: number;
  /** The version of the parameters that it began with. */
  readonly version: number;
  /** Simulated time at which it ends, in seconds. */
  readonly until: number;
}

/** Where a simulation is, between two versions: what going on to the same bits needs besides the parameters. */
export interface AsyncState {
  readonly version: number;
  /** Simulated seconds. */
  readonly time: number;
  /** Fits that have begun. */
  readonly started: number;
  readonly flights: readonly FlightRecord[];
  /** The versions that flights began with, parameters then module state, by number. */
  readonly starts: ReadonlyMap<number, Float32Array>;
}

/** Clients in a row that cannot be reached, by their trace, after which those that are under way are waited for. */
const MISSES = 100;

/** Stands for a client that cannot be reached, by its trace. */
const AWAY = 'away';

interface Flight extends FlightRecord {
  readonly start: SharedStart;
  /** What comes of it, or why nothing does. */
  readonly result: Promise<{ readonly update: Float32Array; readonly report: ClientReport } | string>;
}

/**
 * Federated training in which nobody waits for the slowest: clients begin with the newest parameters and answer whenever they
 * are done, in simulated time. Fits are computed as soon as they begin, on all threads; what comes out depends on the seed
 * alone. A fit under way is never saved: with the version that it began with it is made once more, to the same bits.
 */
export class AsyncSimulation {
  readonly params: Float32Array;
  readonly state: Float32Array;
  readonly #options: AsyncSimulationOptions;
  readonly #flights: Flight[] = [];
  readonly #busy = new Set<number>();
  #started = 0;
  #version = 0;
  #time = 0;
  #start: SharedStart;
  /** What the version under way has so far. */
  #buffer: VersionBuffer | null = null;

  /** `params` and `state` are those of the server, and are changed. `from` is where an earlier simulation was. */
  constructor(options: AsyncSimulationOptions, params: Float32Array, state: Float32Array, from?: AsyncState) {
    const { pool, concurrency, partition } = options;
    this.#options = options;
    this.params = params;
    this.state = state;
    if (concurrency > partition.clients)
      throw new RangeError(`${concurrency} clients cannot train at once: there are ${partition.clients}`);
    this.#start = pool.publish(params, state);
    if (!from) return;
    this.#version = from.version;
    this.#time = from.time;
    this.#started = from.started;
    const starts = new Map<number, SharedStart>();
    for (const [version, both] of from.starts)
      starts.set(version, pool.publish(both.subarray(0, params.length), both.subarray(params.length)));
    for (const flight of from.flights) {
      const start = flight.version === from.version ? this.#start : starts.get(flight.version);
      if (!start)
        throw new RangeError(`version ${flight.version}, which client ${flight.client} began with, is missing`);
      this.#fly(flight, start);
    }
  }

  /** Simulated seconds so far. */
  get time(): number {
    return this.#time;
  }

  /** How far the next version is: answers that it has, of those that make one. */
  get underway(): Underway {
    return { done: this.#buffer?.answers ?? 0, of: this.#options.server.buffer };
  }

  /** Where it is. Between calls of `next` only. */
  snapshot(): AsyncState {
    const starts = new Map<number, Float32Array>();
    for (const { version, start } of this.#flights) {
      if (starts.has(version) || version === this.#version) continue;
      const both = new Float32Array(this.params.length + this.state.length);
      both.set(new Float32Array(start.params));
      both.set(new Float32Array(start.state), this.params.length);
      starts.set(version, both);
    }
    const flights = this.#flights.map(({ client, number, version, until }) => ({ client, number, version, until }));
    return { version: this.#version, time: this.#time, started: this.#started, flights, starts };
  }

  /** Lets simulated time pass until there is a new version. @throws Error if clients give nothing again and again */
  async next(): Promise<VersionReport> {
    const { server, pool, concurrency, behaviour, partition } = this.#options;
    const began = this.#started;
    const dropped: Dropped[] = [];
    const buffer = new VersionBuffer(server, this.params, this.state);
    this.#buffer = buffer;
    while (!buffer.full) {
      let misses = 0;
      while (this.#flights.length < concurrency && misses < MISSES) {
        const problem = this.#launch();
        // (Who is away by its trace has not been asked.)
        misses = problem === AWAY ? misses + 1 : 0;
        if (problem === null || problem === AWAY) continue;
        dropped.push(problem);
        this.#giveUp(dropped);
      }
      if (this.#flights.length === 0) {
        // Hardly anybody is there: time passes until somebody is.
        this.#time = behaviour.next?.(Array(partition.clients).keys(), this.#time) ?? this.#time;
        continue;
      }
      const flight = this.#land();
      this.#time = flight.until;
      const result = await flight.result;
      const staleness = this.#version - flight.version;
      const reason = typeof result === 'string' ? result : refusedAnswer(result.report, staleness, this.#options);
      if (typeof result === 'string' || reason !== null) {
        dropped.push({ client: flight.client, reason: reason ?? '' });
        this.#giveUp(dropped);
        continue;
      }
      buffer.add({ ...result, start: flight.start, staleness });
    }
    const made = buffer.apply();
    this.#version += 1;
    this.#buffer = null;
    this.#start = pool.publish(this.params, this.state);
    return { version: this.#version, ...made, dropped, begun: this.#started - began, time: this.#time };
  }

  /** Waits for the fits that are still under way, whose results are not wanted. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#flights.map(({ result }) => result));
  }

  #giveUp(dropped: readonly Dropped[]): void {
    if (dropped.length > 1000 * this.#options.server.buffer)
      throw new Error(`none of the last ${dropped.length} clients gave an update: ${dropped.at(-1)?.reason}`);
  }

  /** A client that is not busy begins with the newest version; or why the one that was drawn does not. */
  #launch(): Dropped | typeof AWAY | null {
    const { partition, behaviour, seed } = this.#options;
    const number = this.#started++;
    const rng = createRng(seed).fork('async client', number);
    let client = rng.integer(partition.clients);
    while (this.#busy.has(client)) client = rng.integer(partition.clients);
    if (behaviour.until?.(client, this.#time) === this.#time) return AWAY;
    if (!behaviour.available(client, number, this.#time)) return { client, reason: 'it could not be reached' };
    if (partition.size(client) === 0) return { client, reason: 'it has no examples' };
    const takes = Math.min(this.#takes(client), this.#options.deadlineSeconds ?? Number.POSITIVE_INFINITY);
    this.#fly({ client, number, version: this.#version, until: this.#time + takes }, this.#start);
    return null;
  }

  /** Simulated seconds from being asked to the answer's arrival. */
  #takes(client: number): number {
    const { pool, partition, behaviour, local } = this.#options;
    const bytes = 8 * (pool.paramsSize + pool.stateSize);
    return behaviour.seconds(client, { examples: partition.size(client) * local.epochs, bytes });
  }

  /** Why no answer comes of a client's fit; null if one does. */
  #absence({ client, number, until }: FlightRecord): string | null {
    const { behaviour, deadlineSeconds = null } = this.#options;
    const takes = this.#takes(client);
    const began = until - Math.min(takes, deadlineSeconds ?? Number.POSITIVE_INFINITY);
    const there = behaviour.until?.(client, began) ?? Number.POSITIVE_INFINITY;
    if (behaviour.leaves(client, number) || until > there) return 'it left while it trained';
    if (deadlineSeconds === null || takes <= deadlineSeconds) return null;
    return `it would have taken ${takes.toPrecision(3)} s, the deadline is ${deadlineSeconds} s`;
  }

  /** Begins a client's fit: a function of the flight's record, its start and the seed. */
  #fly(flight: FlightRecord, start: SharedStart): void {
    const { pool, partition, behaviour, local } = this.#options;
    const { client, number } = flight;
    const attack = behaviour.attack?.(client, number) ?? null;
    const fit = { ...fitWithoutRounds(client, number, partition.examples(client).slice(), local), attack };
    const absence = this.#absence(flight);
    const result =
      absence === null
        ? pool.each(start, [fit]).then(([only]) => only as { update: Float32Array; report: ClientReport })
        : Promise.resolve(absence);
    // Looked at when its time has come; until then a failure must not count as unhandled.
    result.catch(() => undefined);
    this.#busy.add(client);
    this.#flights.push({ ...flight, start, result });
  }

  /** The flight that ends first; of those that end together, the one that began first. */
  #land(): Flight {
    let first = 0;
    for (const [i, { until, number }] of this.#flights.entries()) {
      const best = this.#flights[first] as Flight;
      if (until < best.until || (until === best.until && number < best.number)) first = i;
    }
    const [flight] = this.#flights.splice(first, 1) as [Flight];
    this.#busy.delete(flight.client);
    return flight;
  }
}
