import type { Underway } from '../../coordinator/index.ts';
import type { Partition } from '../../data/index.ts';
import { type AskedClients, askClients, type Left } from './asked-clients.ts';
import type { ClientBehaviour } from './behaviour.ts';
import type { ClientStore } from './client-store.ts';
import { CohortDraws } from './cohort-draws.ts';
import { type Beginning, type Collector, withoutSecrets } from './collector.ts';
import { downloadCodec, type RoundCompression, sendParams, typicalUpdateBytes } from './compression.ts';
import type { ClientFit, ClientReport, SharedStart } from './fit-task.ts';
import type { Fitters } from './fitters.ts';
import { sizeOfRuns } from './sent-parts.ts';
import type { ClientUpdate, FederatedServer, RoundQuestions, Traffic } from './strategy.ts';
import { countTrained } from './while-underway.ts';

/** What clients are asked to do. */
export interface LocalWork {
  readonly epochs: number;
  readonly batch: number;
}

/** What a simulation in rounds is made of. */
export interface RoundSimulationOptions {
  readonly pool: Fitters;
  readonly partition: Partition;
  readonly server: FederatedServer;
  readonly behaviour: ClientBehaviour;
  readonly store: ClientStore;
  readonly seed: number;
  /** Which clients a round asks, at most `count`. Default: drawn from all registered ones. */
  readonly choose?: (round: number, count: number) => readonly number[];
  /** Clients that `choose` has drawn the round's cohort from. Default: all registered ones. */
  readonly drawnFrom?: () => number;
  /** What a client is told besides, in each round. */
  readonly tell?: (client: number) => Pick<ClientFit, 'tasks'>;
  /** Whether a round that does not count is the next one again. Default: it is over. */
  readonly again?: boolean;
  /** Clients asked in a round. */
  readonly cohort: number;
  /** Clients that must answer for a round to count. */
  readonly quorum: number;
  readonly local: LocalWork;
  /** Simulated seconds after which a round ends without those that have not answered; null waits for all that will. */
  readonly deadlineSeconds: number | null;
  /** Norm above which an update is not used and its client named; null for no bound. */
  readonly maxNorm: number | null;
  /** What goes as fewer bytes; the pool's job says the same. Default: nothing. */
  readonly compression?: RoundCompression | null;
  /** How updates are added up where the server must not see them; absent: it sees them. */
  readonly collector?: Collector | null;
}

/** A client that was asked and is not part of the round's result. */
export interface Dropped {
  readonly client: number;
  readonly reason: string;
}

/** What a round came to. */
export interface RoundReport {
  /** Number of the round, from 0. */
  readonly round: number;
  readonly asked: number;
  readonly completed: number;
  readonly dropped: readonly Dropped[];
  /** Whether the parameters were changed: enough clients answered. */
  readonly counted: boolean;
  /** Why they were not; null if they were. */
  readonly uncounted: string | null;
  /** Mean loss of the local steps over the clients, by examples; NaN if nobody answered. */
  readonly loss: number;
  readonly examples: number;
  /** Simulated seconds that the round took. */
  readonly seconds: number;
  /** Bytes that went to clients, and came from them. */
  readonly bytesDown: number;
  readonly bytesUp: number;
  /** Further figures, by the strategy. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly ms: number;
}

/**
 * Federated training in rounds with simulated clients. Everything that happens in a round is a function of (parameters, seed,
 * round): neither threads nor time play a part, so a run can be repeated and resumed to the bit. Costs grow with the cohort,
 * never with the number of registered clients.
 */
export class RoundSimulation {
  readonly params: Float32Array;
  readonly state: Float32Array;
  readonly #options: RoundSimulationOptions;
  readonly #draws: CohortDraws;
  #round: number;
  /** Simulated seconds so far. */
  #time: number;
  /** How far the round under way is. */
  #underway: (() => Underway) | null = null;

  /**
   * `params` and `state` are those of the server, and are changed by rounds.
   * @param time simulated seconds that the rounds before took
   */
  constructor(options: RoundSimulationOptions, params: Float32Array, state: Float32Array, round = 0, time = 0) {
    this.#options = options;
    this.#draws = new CohortDraws(options);
    this.params = params;
    this.state = state;
    this.#round = round;
    this.#time = time;
  }

  /** Completed rounds. */
  get round(): number {
    return this.#round;
  }

  /** How far the round under way is; null between rounds. */
  get underway(): Underway | null {
    return this.#underway?.() ?? null;
  }

  /** Runs the next round. An update that is not finite or too large costs its client the round, never the others. */
  async next(signal?: AbortSignal): Promise<RoundReport> {
    const began = performance.now();
    const { pool, server, store, local, collector, quorum, compression = null } = this.#options;
    const round = this.#round;
    const { fits, dropped, left, seconds } = this.#ask(round);
    const extra = await this.#prepare(round, fits);
    const down = compression ? sendParams(this.params, compression) : null;
    const start = pool.publish(down?.params ?? this.params, this.state, server.round?.() ?? {}, down ?? undefined);
    this.#underway = countTrained(pool, fits.length);
    const fitted = this.#fit(start, fits, left, signal).finally(() => {
      this.#underway = null;
    });
    const { sum, weight, updates, reports, failure, secrecy } = await fitted;
    pool.retire?.(start);
    const good = reports.filter(({ problem }) => problem === null);
    for (const { client, problem } of reports) if (problem !== null) dropped.push({ client, reason: problem });
    const enough = good.length >= Math.max(1, quorum);
    const uncounted =
      failure ?? (enough ? null : `${good.length} clients answered, the quorum is ${Math.max(1, quorum)}`);
    const counted = uncounted === null;
    if (counted) {
      server.apply(
        {
          round,
          sum,
          weight,
          updates,
          reports: collector ? good.map(withoutSecrets) : good,
          drawnFrom: this.#options.drawnFrom?.() ?? this.#options.partition.clients,
          kept: (client, name) => (collector ? null : (store.get(client)[name] ?? null)),
        },
        this.params,
        this.state,
      );
      for (const { client, kept } of good) store.set(client, kept);
    }
    if (counted || !this.#options.again) this.#round += 1;
    this.#time += seconds;
    const traffic = server.traffic?.(fits.length, good) ?? this.#traffic(fits.length, reports, down?.bytes ?? null);
    const examples = good.reduce((total, report) => total + report.examples, 0);
    return {
      round,
      asked: fits.length + dropped.length - (reports.length - good.length),
      completed: good.length,
      dropped: dropped.sort((a, b) => a.client - b.client),
      counted,
      uncounted,
      loss: good.reduce((total, report) => total + report.loss * report.examples, 0) / examples,
      examples: examples * local.epochs - this.#untouched(fits, good),
      seconds,
      bytesDown: extra.down + traffic.down + secrecy.down,
      bytesUp: extra.up + traffic.up + secrecy.up,
      metrics: server.metrics?.() ?? {},
      ms: performance.now() - began,
    };
  }

  /** Examples, each pass counted, for which clients that sent what they had had no time. */
  #untouched(fits: readonly ClientFit[], reports: readonly ClientReport[]): number {
    const { epochs, batch } = this.#options.local;
    const short = new Map(fits.flatMap(({ client, maxSteps }) => (maxSteps === null ? [] : [[client, maxSteps]])));
    return reports.reduce((total, { client, examples }) => {
      const steps = short.get(client);
      return steps === undefined ? total : total + Math.max(0, examples * epochs - steps * batch);
    }, 0);
  }

  /** Lets the server ask its clients what it wants to know before they train. */
  async #prepare(round: number, clients: readonly ClientFit[]): Promise<Traffic> {
    const { pool, server } = this.#options;
    if (!server.prepare || clients.length === 0) return { down: 0, up: 0 };
    const questions: RoundQuestions = {
      round,
      clients,
      ask: (task, config, { params, state }) => pool.ask(pool.publish(params, state), clients, task, config),
      train: async ({ params, state }, tensors) => {
        const { sum, reports } = await pool.sum(pool.publish(params, state, tensors), clients);
        const weight = weightOf(reports);
        return sum && weight > 0 ? sum.map((value) => value / weight) : null;
      },
      losses: async ({ params, state }) => {
        const start = pool.publish(params, state);
        const reports = await Promise.all(
          clients.map(({ client, examples }) => pool.evaluate(start, 'train', examples, client)),
        );
        return reports.map(({ loss, examples }) => loss / examples);
      },
    };
    return server.prepare(questions, this.params, this.state);
  }

  /** Bytes of a round in which clients are sent parameters and send back how they changed. `params`: bytes of the former. */
  #traffic(asked: number, reports: readonly ClientReport[], params: number | null): Traffic {
    const { pool, compression } = this.#options;
    // (Those whose training failed send nothing; an update that is then refused has been sent.)
    const came = reports.filter(({ loss }) => Number.isFinite(loss));
    if (!compression || params === null)
      return { down: 4 * pool.receivedSize * asked, up: 4 * pool.sentSize * came.length };
    const whole = 4 * sizeOfRuns(compression.sent);
    const up = came.reduce((sum, { updateBytes = whole }) => sum + 4 * pool.sentSize - whole + updateBytes, 0);
    return { down: (4 * pool.receivedSize - whole + params) * asked, up };
  }

  /** Bytes that a client typically sends and receives. */
  #typicalBytes(): number {
    const { pool, compression } = this.#options;
    const plain = 4 * (pool.receivedSize + pool.sentSize);
    if (!compression) return plain;
    const elements = sizeOfRuns(compression.sent);
    const down = downloadCodec(compression.config)?.typicalBytes(elements) ?? 4 * elements;
    return plain - 8 * elements + down + typicalUpdateBytes(compression);
  }

  /** Draws the cohort and finds out who will answer in time. */
  #ask(round: number): AskedClients {
    const { behaviour, cohort, local, server, store, deadlineSeconds, choose, tell } = this.#options;
    return askClients(this.#draws.of(round, choose?.(round, cohort)), {
      ...{ behaviour, local, round, time: this.#time, deadline: deadlineSeconds, bytes: this.#typicalBytes() },
      weigh: (work) => server.weight?.(work) ?? work.examples,
      tell: (client) => ({
        clipNorm: server.clipNorm?.() ?? null,
        noise: server.noise?.(client) ?? null,
        kept: store.get(client),
        ...tell?.(client),
      }),
    });
  }

  async #fit(start: SharedStart, fits: readonly ClientFit[], left: readonly Left[], signal: AbortSignal | undefined) {
    const { pool, server, maxNorm, collector } = this.#options;
    const options = signal ? { signal } : {};
    const plain = { updates: [] as ClientUpdate[], failure: null, secrecy: { down: 0, up: 0 } };
    // A bound on norms must be looked at before anything is added up.
    if (server.needs === 'sum' && maxNorm === null && !collector) {
      const summed = pool.sum(start, fits, options);
      // (Those who have tasks have other examples when the next begins.)
      if (!this.#options.choose && !this.#options.tell) this.#draws.prepare(this.#round + 1);
      const { sum, reports } = await summed;
      return { ...plain, sum, weight: weightOf(reports), reports };
    }
    // While they train they agree on keys.
    const collecting = collector?.begin(this.#beginning(fits, left));
    const trained = pool.each(start, fits, { ...options, lend: collector !== null && collector !== undefined });
    const [collection, given] = await Promise.all([collecting, trained]);
    const all = given.map(({ update, report }): ClientUpdate => {
      const large = maxNorm !== null && report.norm > maxNorm;
      const problem = large ? `the norm of its update is ${report.norm.toPrecision(4)}, the bound ${maxNorm}` : null;
      return { update, report: problem === null || report.problem !== null ? report : { ...report, problem } };
    });
    if (collection) {
      // (With noise of their own clients go beyond what they were clipped to.)
      const clipNorm = server.noise ? null : (server.clipNorm?.() ?? null);
      const { down, up, ...rest } = await collection.collect({ updates: all, clipNorm });
      pool.giveBack?.(all);
      return { ...plain, ...rest, secrecy: { down, up } };
    }
    const updates = all.filter(({ report }) => report.problem === null);
    const reports = all.map(({ report }) => report);
    if (server.needs === 'each') return { ...plain, sum: null, weight: weightOf(reports), updates, reports };
    return { ...plain, sum: pool.add(all), weight: weightOf(reports), reports };
  }

  #beginning(fits: readonly ClientFit[], left: readonly Left[]): Beginning {
    const { pool } = this.#options;
    const members = [...fits, ...left];
    return {
      round: this.#round,
      members: members.map(({ client }) => client).sort((a, b) => a - b),
      largest: Math.max(...members.map(({ weight }) => weight)),
      length: pool.paramsSize + pool.stateSize,
      ...(pool.mask ? { mask: pool.mask.bind(pool) } : {}),
    };
  }
}

function weightOf(reports: readonly ClientReport[]): number {
  return reports.reduce((total, { weight, problem }) => total + (problem === null ? weight : 0), 0);
}
