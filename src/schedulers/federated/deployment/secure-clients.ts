import type * as z from 'zod';
import type { Answers, Beginning, Collected, Collection, Collector } from '../collector.ts';
import type { ClientFit } from '../fit-task.ts';
import {
  ImpossibleSum,
  isPublicKey,
  KEYS_BYTES,
  levelsFor,
  maskedIn,
  type PublicKeys,
  type QuantiseOptions,
  resultOrReason,
  roundGraph,
  SEALED_BYTES,
  SecAggServer,
  type SecureAggregationConfig,
  SHARE_BYTES,
  sharesOf,
  takeMasksOff,
  tooFew,
  type Unmasking,
  wrongShares,
} from '../privacy/index.ts';
import { BadUpdate } from './check-update.ts';
import {
  keysSchema,
  type Masking,
  type OmitFromEach,
  sharesSchema,
  type ToClient,
  unmaskingSchema,
} from './messages.ts';
import type { RoundCalls } from './round-calls.ts';

/** What a client is told about an aggregation, without what says of which one. */
export type SecureRequest = OmitFromEach<
  Extract<ToClient, { readonly aggregation: string }>,
  'session' | 'round' | 'client' | 'aggregation'
>;

/** How clients elsewhere add their updates up in secret. */
export interface SecureClientsOptions {
  readonly config: SecureAggregationConfig;
  readonly seed: number;
  /** Tells the aggregations of this server from those of others. */
  readonly session: string;
  /** Norm above which a client is not to send its update; null for no bound. */
  readonly maxNorm: number | null;
  readonly calls: RoundCalls;
  /** Something that a client answered, other than its update, cannot be used. */
  readonly blame: (client: number, why: BadUpdate) => void;
  /** Called with everything that arrives at the server of a client's update. */
  readonly onArrival?: (client: number, masked: Uint32Array) => void;
}

/** Parts of a round's time by whose ends clients have said their keys, and shared their secrets. */
const [KEYS_BY, SHARES_BY] = [0.1, 0.2];

/** The part of a round's time by whose end updates must be there, so that some is left to take masks off. */
export const MASKED_UPDATES_BY = 0.85;

/**
 * Secure aggregation over messages: what `secureCollector` plays with simulated clients, with real ones. The server sees public keys,
 * sealed shares, vectors under masks, and shares that take masks off their sum. A client that leaves, at whatever step, costs the
 * round nothing but its own update, as long as more than half of each one's neighbours are left.
 */
export class SecureClients implements Collector {
  readonly #options: SecureClientsOptions;
  /** Aggregations so far: one that is tried again is another one. */
  #count = 0;
  #round: SecureRound | null = null;
  /** By whom clients were said, in any round, to have sealed what cannot be read. */
  readonly #accused = new Map<number, Set<number>>();

  constructor(options: SecureClientsOptions) {
    this.#options = options;
  }

  /** Begins a round: what clients have to agree on is under way when this returns. */
  begin(beginning: Beginning): Promise<Collection> {
    this.#count += 1;
    const round = new SecureRound(this.#options, beginning, `${this.#options.session} ${this.#count}`);
    this.#round = round;
    return Promise.resolve({ collect: (answers) => round.collect(answers) });
  }

  /** How a client is to mask its update, once that is agreed. @throws BadUpdate or Error if it did not take part in that */
  masking(fit: ClientFit): Promise<Masking> {
    if (!this.#round) throw new Error('no secure aggregation has begun');
    return this.#round.masking(fit);
  }

  /**
   * A client cannot read what these have sealed for it. One says so of another easily; whom more than half of its neighbours have accused is
   * quarantined.
   */
  accuse(by: number, accused: readonly number[]): void {
    for (const client of accused) {
      const neighbours = this.#round?.neighboursOf(client) ?? [];
      if (!neighbours.includes(by)) continue;
      const accusers = this.#accused.get(client) ?? new Set();
      this.#accused.set(client, accusers.add(by));
      if (accusers.size <= neighbours.length / 2) continue;
      const message = `${accusers.size} of its ${neighbours.length} neighbours cannot read the shares that it sealed for them`;
      this.#options.blame(client, new BadUpdate(message, true));
    }
  }
}

/** One round's aggregation. */
class SecureRound {
  readonly #options: SecureClientsOptions;
  readonly #beginning: Beginning;
  readonly #id: string;
  /** Why clients are not part of it. */
  readonly #problems = new Map<number, Error>();
  /** The server with all shares, or why there can be no sum. */
  readonly #agreed: Promise<SecAggServer | string>;
  #graph: ReadonlyMap<number, readonly number[]> = new Map();

  constructor(options: SecureClientsOptions, beginning: Beginning, id: string) {
    this.#options = options;
    this.#beginning = beginning;
    this.#id = id;
    this.#agreed = resultOrReason(() => this.#agree());
    // (Awaited by everybody who wants something of it.)
    this.#agreed.catch(() => undefined);
  }

  /** Whom a client has shared its secrets with. */
  neighboursOf(client: number): readonly number[] {
    return this.#graph.get(client) ?? [];
  }

  async masking({ client, weight, clipNorm, noise }: ClientFit): Promise<Masking> {
    const server = await this.#agreed;
    if (typeof server === 'string') throw new Error(server);
    const problem = this.#problems.get(client);
    if (problem) throw problem;
    const { config, maxNorm } = this.#options;
    const { members, largest } = this.#beginning;
    const shares = server.sharesFor(client).map(({ from, sealed }) => ({ from, sealed }));
    this.#options.calls.count({ down: shares.length * SEALED_BYTES });
    // (With noise of their own clients go beyond what they were clipped to.)
    const range = (noise ? null : clipNorm) ?? config.range;
    return { aggregation: this.#id, shares, members: members.length, range, share: weight / largest, maxNorm };
  }

  async collect({ updates, clipNorm }: Answers): Promise<Collected> {
    const sending = updates.filter(({ report }) => report.problem === null);
    const weight = sending.reduce((total, { report }) => total + report.weight, 0);
    const common = { weight, reports: updates.map(({ report }) => report), down: 0, up: 0 };
    const server = await this.#agreed;
    const sum =
      typeof server === 'string'
        ? server
        : sending.length < 2
          ? tooFew(sending.length, this.#beginning.members.length)
          : await resultOrReason(async () => {
              const arrived = sending.map(({ update, report }) => ({
                client: report.client,
                vector: maskedIn(update),
              }));
              for (const { client, vector } of arrived) this.#options.onArrival?.(client, vector);
              server.addAllMasked(arrived);
              const levels = levelsFor(this.#beginning.members.length);
              return this.#withoutMasks(server, { range: clipNorm ?? this.#options.config.range, levels });
            });
    return typeof sum === 'string' ? { ...common, sum: null, failure: sum } : { ...common, sum, failure: null };
  }

  /** Keys, then shares of secrets. @throws SecAggError where that makes no aggregation */
  async #agree(): Promise<SecAggServer> {
    const { config, seed, calls } = this.#options;
    const { round, members, length } = this.#beginning;
    const keys = await this.#all(members, async (client): Promise<PublicKeys> => {
      const told = await this.#ask(client, { type: 'keys' }, keysSchema, KEYS_BY);
      if (!isPublicKey(told.cipher) || !isPublicKey(told.mask))
        throw new BadUpdate('it has public keys with which nothing can be kept secret', true);
      calls.count({ up: KEYS_BYTES });
      return { client, ...told };
    });
    const present = [...keys.keys()];
    this.#graph = roundGraph(config, seed, round, present);
    const server = new SecAggServer({ id: this.#id, length }, this.#graph);
    for (const each of keys.values()) server.addKeys(each);
    const shared = await this.#all(present, async (client) => {
      const neighbours = server.neighboursOf(client);
      const { threshold } = server;
      calls.count({ down: neighbours.length * KEYS_BYTES });
      const told = await this.#ask(client, { type: 'shares', threshold, neighbours }, sharesSchema, SHARES_BY);
      const complete = new Set(told.map(({ to }) => to)).size === told.length && told.length === neighbours.length;
      if (!complete || neighbours.some((each) => !told.some(({ to }) => to === each.client)))
        throw new BadUpdate(`it has no shares for some of its ${neighbours.length} neighbours`, true);
      calls.count({ up: told.length * SEALED_BYTES });
      return told.map(({ to, sealed }) => ({ from: client, to, sealed }));
    });
    for (const [client, shares] of shared) server.addShares(client, shares);
    return server;
  }

  /**
   * The sum without its masks: as soon as there are enough shares, nobody is waited for. If it is none that clients can have sent, all
   * shares that still come are looked at: of those who gave wrong ones the others' say so, and do without them.
   */
  async #withoutMasks(server: SecAggServer, levels: QuantiseOptions): Promise<Float32Array> {
    const { largest } = this.#beginning;
    const unmasking = this.#askForShares(server);
    try {
      await unmasking.enough;
      try {
        return takeMasksOff(server, unmasking.answers, levels, largest);
      } catch (error) {
        if (!(error instanceof ImpossibleSum)) throw error;
        await unmasking.all;
        const liars = wrongShares(sharesOf(unmasking.answers).values(), server.threshold);
        if (liars.length === 0) throw error;
        for (const client of liars)
          this.#options.blame(client, new BadUpdate('the shares that it gave do not fit those of the others', true));
        const honest = unmasking.answers.filter(({ client }) => !liars.includes(client));
        return takeMasksOff(server, honest, levels, largest);
      }
    } finally {
      unmasking.stop();
    }
  }

  /** Asks those whose vectors are in the sum for what takes the masks off. */
  #askForShares(server: SecAggServer): Unmaskings {
    const { calls } = this.#options;
    const survivors = server.survivors();
    const over = new AbortController();
    const answers: Unmasking[] = [];
    let complete: () => void = () => undefined;
    const whole = new Promise<void>((resolve) => {
      complete = resolve;
    });
    const ask = async (client: number): Promise<void> => {
      calls.count({ down: 4 * survivors.length });
      const told = await this.#ask(client, { type: 'unmask', survivors }, unmaskingSchema, 1, over.signal);
      const shares = told.map(({ x, share: bytes, ...rest }) => ({ ...rest, share: { x, bytes } }));
      if (new Set(shares.map(({ of }) => of)).size < shares.length)
        throw new BadUpdate('it gives two shares of one client, of which no client gives more than one', true);
      calls.count({ up: shares.length * SHARE_BYTES });
      answers.push({ client, shares });
      if (server.complete(answers)) complete();
    };
    const all = Promise.all(
      survivors.map((client) =>
        ask(client).catch((error: Error) => {
          // Without it there may still be enough; if not, the sum says of whom.
          if (error instanceof BadUpdate) this.#options.blame(client, error);
        }),
      ),
    );
    return { answers, enough: Promise.race([whole, all]), all, stop: () => over.abort() };
  }

  /** What clients answer, in their order. Of those that do not the reason is kept. */
  async #all<T>(clients: readonly number[], one: (client: number) => Promise<T>): Promise<ReadonlyMap<number, T>> {
    const answers = await Promise.all(
      clients.map(async (client): Promise<[number, T][]> => {
        try {
          return [[client, await one(client)]];
        } catch (error) {
          this.#problems.set(client, error as Error);
          return [];
        }
      }),
    );
    return new Map(answers.flat());
  }

  /** @throws BadUpdate where the answer makes no sense; what asking throws */
  async #ask<T extends z.ZodType>(
    client: number,
    request: SecureRequest,
    schema: T,
    part: number,
    signal?: AbortSignal,
  ): Promise<z.output<T>> {
    const { round } = this.#beginning;
    const { session, calls } = this.#options;
    const message = { ...request, session, round, client, aggregation: this.#id } as Extract<
      ToClient,
      { readonly aggregation: string }
    >;
    const parsed = schema.safeParse(await calls.ask(message, calls.left(part), signal));
    if (parsed.success) return parsed.data;
    throw new BadUpdate(`its answer makes no sense: ${parsed.error.issues[0]?.message}`, true);
  }
}

/** Answers as they come. */
interface Unmaskings {
  readonly answers: readonly Unmasking[];
  /** Once they are enough to take the masks off, or all have come that will. */
  readonly enough: Promise<unknown>;
  /** Once all have come that will. */
  readonly all: Promise<unknown>;
  /** Waits for nobody any more. */
  stop(): void;
}
