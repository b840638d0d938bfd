import type { NatsConnection } from '@nats-io/transport-node';
import { decodeRuns, type RoundCompression, uploadCodec } from '../compression.ts';
import type { ClientFit, ClientReport, SharedStart } from '../fit-task.ts';
import { problemOf } from './blame.ts';
import { BadUpdate } from './check-update.ts';
import type { ClientRequest, OmitFromEach, ToClient } from './messages.ts';
import { bytesOf, packed } from './payload.ts';
import { type ExpectedUpdate, receivedUpdate } from './received-update.ts';
import type { RoundCalls } from './round-calls.ts';
import type { SecureClients } from './secure-clients.ts';
import type { SentStarts } from './sent-starts.ts';

/** What clients are asked by. */
export interface ClientFitsOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  readonly session: string;
  readonly sizes: ExpectedUpdate['sizes'];
  readonly calls: RoundCalls;
  readonly starts: SentStarts;
  readonly secure: SecureClients | null;
  /** Norm above which an update is not used; null for no bound. */
  readonly maxNorm: number | null;
  /** Names of what clients keep that the strategy wants to see. */
  readonly wanted: readonly string[];
  /** Round after which what a client keeps counts, now and as of the newest checkpoint; null: nothing. */
  readonly kept: (client: number) => { readonly now: number | null; readonly durable: number | null };
  /** How parameters and updates travel as fewer bytes; absent or null: as they are. */
  readonly compression?: RoundCompression | null;
  /** What a client answered cannot be used. */
  readonly blame: (client: number, why: BadUpdate) => void;
}

/** A request that is about to be sent, without what all have in common. */
export type Asking = OmitFromEach<
  ToClient,
  'session' | 'round' | 'client' | 'version' | 'start' | 'vectors' | 'encoded'
>;

/** How long something may take: milliseconds that are left of it, and how messages call it. */
export interface Clock {
  readonly left: () => number;
  readonly time: string;
}

/** Which client, and for which round. */
export type Who = Pick<ClientFit, 'client' | 'round'>;

/** Fits of clients elsewhere: each is asked for, and what comes is checked, until its time is over. */
export class ClientFits {
  readonly #options: ClientFitsOptions;
  /** Reads what a codec wrote of an update; null where updates come as they are. */
  readonly #decode: ExpectedUpdate['decode'];
  readonly #keeping = new Set<number>();
  #trained = 0;

  constructor(options: ClientFitsOptions) {
    const { compression } = options;
    this.#options = options;
    const codec = compression ? uploadCodec(compression.config) : null;
    this.#decode = codec && ((bytes, params) => decodeRuns(codec, bytes, compression?.sent ?? [], params));
  }

  /** Whether a client, as it last said, keeps something for its next round. */
  keeps(client: number): boolean {
    return this.#keeping.has(client);
  }

  /** Clients that have answered, or can no longer. */
  get trained(): number {
    return this.#trained;
  }

  /** One client's fit. Never rejects for what the client does: that is the report's problem. @throws what `signal` is raised with */
  async fit(
    start: SharedStart,
    fit: ClientFit,
    clock: Clock,
    signal?: AbortSignal,
  ): Promise<{ readonly update: Float32Array | null; readonly report: ClientReport }> {
    const began = performance.now();
    const { starts, secure, blame, wanted } = this.#options;
    const release = starts.hold(start);
    const {
      client,
      round,
      examples,
      epochs,
      maxSteps,
      firstStep,
      weight,
      clipNorm,
      kept: _,
      attack: __,
      ...more
    } = fit;
    const base = { client, examples: examples.length, weight, kept: {} };
    try {
      const { now, durable } = this.#options.kept(client);
      const asking: Asking = {
        type: 'fit',
        ...{ epochs, maxSteps, firstStep, clipNorm },
        more: packed(more) as Record<string, unknown>,
        kept: now,
        durable,
        wanted: [...wanted],
        masking: (await secure?.masking(fit)) ?? null,
      };
      const who = { client, round };
      const answer = await this.request(start, who, asking, clock, signal);
      const { update, norm, kept, sent, told } = await this.#received(start, fit, answer, clock, signal);
      const { steps, lr, problem, keeps, clipped } = told;
      const loss = told.loss ?? Number.NaN;
      if (keeps) this.#keeping.add(client);
      if (told.accused) secure?.accuse(client, told.accused);
      const ms = performance.now() - began;
      const optional = { ...(lr === undefined ? {} : { lr }), ...(clipped === undefined ? {} : { clipped }) };
      const report = { ...base, steps, loss, norm, kept, sent, ms, problem, ...optional };
      return { update, report };
    } catch (error) {
      if (signal?.aborted) throw error;
      if (error instanceof BadUpdate) blame(client, error);
      const problem = problemOf(error as Error, clock.time);
      return {
        update: null,
        report: { ...base, steps: 0, loss: Number.NaN, norm: 0, ms: performance.now() - began, problem },
      };
    } finally {
      release();
      this.#trained += 1;
    }
  }

  /** Fetches and checks what a client answers to a fit. @throws BadUpdate, or what fetching throws */
  #received(
    { version }: SharedStart,
    { client, round, clipNorm, noise = null }: ClientFit,
    answer: unknown,
    { left }: Clock,
    signal: AbortSignal | undefined,
  ) {
    const { nats, job, maxNorm, wanted, calls, secure, session, sizes } = this.#options;
    const from = calls.live(client);
    return receivedUpdate(answer, {
      ...{ nats, job, maxNorm, wanted, version, round, from, session, sizes },
      ...{ masked: secure !== null, noisy: noise !== null, decode: this.#decode },
      clipNorm: noise === null ? clipNorm : null,
      deadlineMs: () => Math.max(1, left()),
      signal: calls.gone(client, signal),
      onBytes: (up) => calls.count({ up }),
    });
  }

  /** Asks one client something about parameters, until it answers or it is too late. */
  async request(
    start: SharedStart,
    { client, round }: Who,
    asking: Asking,
    clock: Clock,
    signal?: AbortSignal,
  ): Promise<unknown> {
    const { calls, starts, session } = this.#options;
    const { start: offered, vectors, encoded } = starts.of(start);
    const { version } = start;
    const message = { ...asking, session, round, client, version, start: offered.parcel, vectors, encoded };
    calls.count({ down: bytesOf(vectors) + (encoded?.bytes ?? 0) });
    return calls.ask(message as ClientRequest, clock.left(), signal);
  }
}
