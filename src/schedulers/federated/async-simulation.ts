import type { Partition } from '../../data/index.ts';
import { createRng } from '../../tensor/index.ts';
import type { ClientBehaviour } from './behaviour.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientReport } from './fit-task.ts';
import type { Dropped, LocalWork } from './simulation.ts';
import { addUpdate } from './strategy.ts';

/** How a server takes updates that come at any time. */
export interface AsyncServer {
  /** Updates that make a new version of the parameters together: 1 for FedAsync, K for FedBuff. */
  readonly buffer: number;
  /** Weight of an update that began `staleness` versions ago. */
  weight(staleness: number): number;
  /** Factor on the mean of the weighted updates. */
  readonly serverLr: number;
}

/** What a simulation without rounds is made of. */
export interface AsyncSimulationOptions {
  readonly pool: FitPool;
  readonly partition: Partition;
  readonly server: AsyncServer;
  readonly behaviour: ClientBehaviour;
  readonly seed: number;
  /** Clients that train at the same time. */
  readonly concurrency: number;
  readonly local: LocalWork;
}

/** A new version of the parameters. */
export interface VersionReport {
  /** Number of the version, from 1. */
  readonly version: number;
  readonly reports: readonly ClientReport[];
  readonly dropped: readonly Dropped[];
  /** Mean number of versions that passed while the updates were made. */
  readonly staleness: number;
  /** Simulated time at which it was made, in seconds. */
  readonly time: number;
  readonly loss: number;
}

interface Flight {
  readonly client: number;
  readonly number: number;
  readonly version: number;
  readonly until: number;
  readonly leaves: boolean;
  readonly result: Promise<{ readonly update: Float32Array; readonly report: ClientReport } | null>;
}

/**
 * Federated training in which nobody waits for the slowest: clients begin with the newest parameters and answer whenever they
 * are done, in simulated time. Fits are computed as soon as they begin, on all threads; what comes out depends on the seed
 * alone.
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
  #start: ReturnType<FitPool['publish']>;

  /** `params` and `state` are those of the server, and are changed. */
  constructor(options: AsyncSimulationOptions, params: Float32Array, state: Float32Array) {
    this.#options = options;
    this.params = params;
    this.state = state;
    if (options.concurrency > options.partition.clients)
      throw new RangeError(
        `${options.concurrency} clients cannot train at once: there are ${options.partition.clients}`,
      );
    this.#start = options.pool.publish(params, state);
  }

  /** Simulated seconds so far. */
  get time(): number {
    return this.#time;
  }

  /** Lets simulated time pass until there is a new version. */
  async next(): Promise<VersionReport> {
    const { server, pool, concurrency } = this.#options;
    const buffered: { update: Float32Array; report: ClientReport; staleness: number }[] = [];
    const dropped: Dropped[] = [];
    while (buffered.length < server.buffer) {
      while (this.#flights.length < concurrency) this.#launch();
      const flight = this.#land();
      this.#time = flight.until;
      const result = await flight.result;
      if (!result) dropped.push({ client: flight.client, reason: 'it left while it trained' });
      else if (result.report.problem !== null) dropped.push({ client: flight.client, reason: result.report.problem });
      else buffered.push({ ...result, staleness: this.#version - flight.version });
      if (dropped.length > 1000 * server.buffer)
        throw new Error(`none of the last ${dropped.length} clients gave an update: ${dropped.at(-1)?.reason}`);
    }
    const mean = new Float32Array(this.params.length + this.state.length);
    for (const { update, staleness } of buffered) {
      const share = server.weight(staleness) / buffered.length;
      for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + share * (update[i] as number);
    }
    addUpdate(mean, this.params, this.state, server.serverLr);
    this.#version += 1;
    this.#start = pool.publish(this.params, this.state);
    const reports = buffered.map(({ report }) => report);
    const examples = reports.reduce((sum, report) => sum + report.examples, 0);
    return {
      version: this.#version,
      reports,
      dropped,
      staleness: buffered.reduce((sum, { staleness }) => sum + staleness, 0) / buffered.length,
      time: this.#time,
      loss: reports.reduce((sum, report) => sum + report.loss * report.examples, 0) / examples,
    };
  }

  /** Waits for the fits that are still under way, whose results are not wanted. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#flights.map(({ result }) => result));
  }

  /** A client that is not busy begins with the newest version. */
  #launch(): void {
    const { pool, partition, behaviour, local, seed } = this.#options;
    const number = this.#started++;
    const rng = createRng(seed).fork('async client', number);
    let client = rng.integer(partition.clients);
    while (this.#busy.has(client)) client = rng.integer(partition.clients);
    const examples = partition.examples(client).slice();
    const bytes = 8 * (pool.paramsSize + pool.stateSize);
    const until = this.#time + behaviour.seconds(client, { examples: examples.length * local.epochs, bytes });
    const leaves = behaviour.leaves(client, number) || examples.length === 0;
    const fit = {
      client,
      round: number,
      examples,
      epochs: local.epochs,
      maxSteps: null,
      firstStep: 0,
      weight: 1,
      clipNorm: null,
      kept: {},
    };
    const result = leaves ? Promise.resolve(null) : pool.each(this.#start, [fit]).then(([only]) => only ?? null);
    // Looked at when its time has come; until then a failure must not count as unhandled.
    result.catch(() => undefined);
    this.#busy.add(client);
    this.#flights.push({ client, number, version: this.#version, until, leaves, result });
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

/** Polynomial decay of stale updates: (1 + staleness)^-a (Xie, Koyejo and Gupta, FedAsync, 2019, section 5.2). */
export function polynomialStaleness(exponent: number): (staleness: number) => number {
  return (staleness) => (1 + staleness) ** -exponent;
}

/**
 * Buffered asynchronous aggregation: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, Federated Learning with Buffered
 * Asynchronous Aggregation (FedBuff, 2022), algorithm 1, updates scaled by 1 / sqrt(1 + staleness).
 */
export function fedbuff({ buffer, serverLr }: { readonly buffer: number; readonly serverLr: number }): AsyncServer {
  return { buffer, serverLr, weight: polynomialStaleness(0.5) };
}

/** Every update mixed in at once with weight alpha (1 + staleness)^-a: Xie, Koyejo and Gupta, FedAsync (2019), algorithm 1. */
export function fedasync({ alpha, exponent }: { readonly alpha: number; readonly exponent: number }): AsyncServer {
  return { buffer: 1, serverLr: alpha, weight: polynomialStaleness(exponent) };
}
