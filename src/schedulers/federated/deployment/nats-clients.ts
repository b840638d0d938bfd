import { randomBytes, randomUUID } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import { BlobServer, ControlResponder } from '../../../comm/index.ts';
import type { Collector } from '../collector.ts';
import type { RoundCompression, SentParams } from '../compression.ts';
import type { FitPool } from '../fit-pool.ts';
import type { ClientFit, ClientReport, EvaluateReport, SharedStart } from '../fit-task.ts';
import type { Fitters } from '../fitters.ts';
import type { SecureAggregationConfig } from '../privacy/index.ts';
import { Blame, problemOf } from './blame.ts';
import { BadUpdate } from './check-update.ts';
import { ClientFits, type Clock, type Who } from './client-fits.ts';
import { RoundsFailed } from './errors.ts';
import { GatheredSum } from './gathered-sum.ts';
import { type JobDescription, lossSchema, serverSubject } from './messages.ts';
import { packed, unpacked } from './payload.ts';
import type { Roster } from './roster.ts';
import { RoundCalls } from './round-calls.ts';
import { MASKED_UPDATES_BY, SecureClients, type SecureClientsOptions } from './secure-clients.ts';
import { SentStarts } from './sent-starts.ts';
import { replyTo } from './server-replies.ts';

/** What the server of clients elsewhere is made of. */
export interface NatsClientsOptions {
  readonly nats: NatsConnection;
  /** Name of the job, and of the run, of which clients keep things. */
  readonly job: string;
  readonly run: string;
  readonly description: JobDescription;
  readonly roster: Roster;
  /** Knows the sizes of vectors, and evaluates on the server's own data. */
  readonly local: Pick<
    FitPool,
    'paramsSize' | 'stateSize' | 'receivedSize' | 'sentSize' | 'publish' | 'add' | 'evaluate'
  >;
  /** How long a round may take, in milliseconds. */
  readonly deadlineMs: number;
  /** How often clients say that they are there, in milliseconds. */
  readonly beatMs: number;
  /** Norm above which an update is not used; null for no bound. */
  readonly maxNorm: number | null;
  /** Names of what clients keep that the strategy wants to see. */
  readonly wanted: readonly string[];
  /** Round after which what a client keeps counts, now and as of the newest checkpoint; null: nothing. */
  readonly kept: (client: number) => { readonly now: number | null; readonly durable: number | null };
  /** How parameters and updates travel as fewer bytes; absent or null: as they are. */
  readonly compression?: RoundCompression | null;
  /** How updates are added up in secret, and the run's seed; null: they come as they are. */
  readonly secure?: { readonly config: SecureAggregationConfig; readonly seed: number } | null;
  /** With `secure`: called with everything that arrives of a client's update. */
  readonly onArrival?: SecureClientsOptions['onArrival'];
  readonly warn: (message: string) => void;
}

/**
 * Clients elsewhere, over NATS, as rounds ask for them. Whatever they do, what they are asked ends by the round's deadline; what
 * one of them sends is checked before it is added to what others sent, and sums have the bits of the simulation's.
 */
export class NatsClients implements Fitters {
  readonly session = randomUUID();
  readonly paramsSize: number;
  readonly stateSize: number;
  readonly receivedSize: number;
  readonly sentSize: number;
  readonly #options: NatsClientsOptions;
  readonly #secret = randomBytes(32).toString('hex');
  readonly #calls: RoundCalls;
  readonly #responder: ControlResponder;
  readonly #blobs: BlobServer;
  readonly #starts: SentStarts;
  readonly #blame: Blame;
  readonly #secure: SecureClients | null;
  readonly #fits: ClientFits;

  constructor(options: NatsClientsOptions) {
    const { nats, job, local, secure = null, maxNorm, onArrival } = options;
    this.#options = options;
    this.#blame = new Blame(options.roster);
    this.paramsSize = local.paramsSize;
    this.stateSize = local.stateSize;
    this.receivedSize = local.receivedSize;
    this.sentSize = local.sentSize;
    this.#calls = new RoundCalls(options);
    this.#blobs = new BlobServer({ nats, job, owner: `fed-${this.session}`, secret: this.#secret, listen: null });
    this.#starts = new SentStarts(this.#blobs, `fed-${this.session}`);
    const { session } = this;
    const blame = this.#blame.add.bind(this.#blame);
    this.#secure = secure
      ? new SecureClients({
          ...{ ...secure, session, maxNorm, blame, calls: this.#calls },
          ...(onArrival ? { onArrival } : {}),
        })
      : null;
    this.#fits = new ClientFits({
      ...{ ...options, session, sizes: this, calls: this.#calls, starts: this.#starts, secure: this.#secure },
      blame,
    });
    const replies = { ...options, session: this.session, secret: this.#secret, sizes: this };
    this.#responder = new ControlResponder(nats, serverSubject(job), (message) => replyTo(message, replies));
  }

  /** Begins a round: from now on its deadline runs. */
  begin(): void {
    this.#calls.begin();
  }

  /** How updates of rounds are added up in secret; null where they come as they are. */
  get collector(): Collector | null {
    return this.#secure;
  }

  /** Whether a client, as it last said, keeps something for its next round. */
  keeps(client: number): boolean {
    return this.#fits.keeps(client);
  }

  /** Clients that have answered, or can no longer, in all rounds so far. */
  get trained(): number {
    return this.#fits.trained;
  }

  /** Bytes of vectors that went to clients, and came from them, since the round began. */
  get bytes(): { readonly down: number; readonly up: number } {
    return this.#calls.bytes;
  }

  publish(
    params: Float32Array,
    state: Float32Array,
    round: Readonly<Record<string, Float32Array>> = {},
    sent?: SentParams,
  ): SharedStart {
    const start = this.#options.local.publish(params, state, round);
    const { compression } = this.#options;
    if (sent?.encoded && compression) this.#starts.encode(start, sent.encoded, compression.sent);
    return start;
  }

  async sum(
    start: SharedStart,
    cohort: readonly ClientFit[],
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<{ readonly sum: Float32Array | null; readonly reports: readonly ClientReport[] }> {
    const total = new GatheredSum(cohort.length);
    const reports = await Promise.all(
      cohort.map(async (fit, i) => {
        const { update, report } = await this.#fits.fit(start, fit, this.#round, options.signal);
        // Added as they come: where each belongs in the tree does not depend on that.
        if (update && fit.weight !== 1)
          for (let k = 0; k < update.length; k++) update[k] = (update[k] as number) * fit.weight;
        total.add(i, update);
        return report;
      }),
    );
    return { sum: total.total(), reports };
  }

  each(
    start: SharedStart,
    cohort: readonly ClientFit[],
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<{ readonly update: Float32Array; readonly report: ClientReport }[]> {
    return Promise.all(
      cohort.map(async (fit) => {
        const { update, report } = await this.#fits.fit(start, fit, this.#round, options.signal);
        return { update: update ?? new Float32Array(this.paramsSize + this.stateSize), report };
      }),
    );
  }

  add(updates: Parameters<FitPool['add']>[0]): Float32Array | null {
    return this.#options.local.add(updates);
  }

  /**
   * One client's fit outside of rounds, with time of its own. Never rejects for what the client does: that is the report's problem.
   * @param deadlineMs milliseconds that it may take
   */
  fit(
    start: SharedStart,
    fit: ClientFit,
    { deadlineMs, signal }: { readonly deadlineMs: number; readonly signal: AbortSignal },
  ): Promise<{ readonly update: Float32Array | null; readonly report: ClientReport }> {
    const end = performance.now() + deadlineMs;
    const time = `the ${deadlineMs / 1000} s that a fit may take`;
    return this.#fits.fit(start, fit, { left: () => end - performance.now(), time }, signal);
  }

  /** @throws RoundsFailed naming the client that did not answer, since the others' answers are of no use without it */
  ask(start: SharedStart, clients: readonly Who[], task: string, config: unknown): Promise<unknown[]> {
    return this.#all(clients, async (who) =>
      unpacked(await this.#fits.request(start, who, { type: 'ask', task, config: packed(config) }, this.#round)),
    );
  }

  /** With a client: its own examples, by itself. Else the server's own. @throws RoundsFailed naming the client that did not answer */
  async evaluate(...args: Parameters<FitPool['evaluate']>): Promise<EvaluateReport> {
    const [start, , , client] = args;
    if (client === undefined) return this.#options.local.evaluate(...args);
    const [report] = await this.#all([{ client, round: 0 }], (who) => this.#loss(start, who, false, this.#round));
    return report as EvaluateReport;
  }

  /**
   * How a start does for clients, each on its own examples. Outside of rounds, with as much time as one has.
   * @param held whether on those that they have held out; else on those they train on
   * @returns in the order of the clients; null for who does not say: is gone, too slow, or lets itself not be asked
   * @throws what `signal` is raised with
   */
  async measure(
    start: SharedStart,
    clients: readonly number[],
    { round, held, signal }: { readonly round: number; readonly held: boolean; readonly signal: AbortSignal },
  ): Promise<(EvaluateReport | null)[]> {
    const end = performance.now() + this.#options.deadlineMs;
    const clock = { left: () => end - performance.now(), time: `${this.#options.deadlineMs / 1000} s` };
    return Promise.all(
      clients.map(async (client) => {
        try {
          return await this.#loss(start, { client, round }, held, clock, signal);
        } catch (error) {
          if (signal.aborted) throw error;
          if (error instanceof BadUpdate) this.#blame.add(client, error);
          return null;
        }
      }),
    );
  }

  /** What a client says of its own examples. @throws BadUpdate if that makes no sense; what asking throws */
  async #loss(
    start: SharedStart,
    who: Who,
    held: boolean,
    clock: Clock,
    signal?: AbortSignal,
  ): Promise<EvaluateReport> {
    const parsed = lossSchema.safeParse(await this.#fits.request(start, who, { type: 'loss', held }, clock, signal));
    if (parsed.success) return parsed.data;
    throw new BadUpdate(`its loss makes no sense: ${parsed.error.issues[0]?.message}`, true);
  }

  /** Tells the clients that this session is over, and lets go of everything. */
  async close(reason: string): Promise<void> {
    this.#responder.close();
    await this.#calls.close(this.session, reason);
    await this.#blobs.close();
  }

  // ---- what clients are asked

  /** The time that fits of a round have. */
  get #round(): Clock {
    const part = this.#secure ? MASKED_UPDATES_BY : 1;
    return { left: () => this.#calls.left(part), time: `the ${this.#options.deadlineMs / 1000} s of a round` };
  }

  /** Asks all of them, and fails if one does not answer: an answer without it would be another's. */
  #all<T>(clients: readonly Who[], one: (who: Who) => Promise<T>): Promise<T[]> {
    return Promise.all(
      clients.map(async (who) => {
        try {
          return await one(who);
        } catch (error) {
          if (error instanceof BadUpdate) this.#blame.add(who.client, error);
          const name = this.#options.roster.nameOf(who.client);
          throw new RoundsFailed(
            `client ${name} did not answer a question of round ${who.round}: ${problemOf(error as Error, this.#round.time)}`,
            {
              cause: error,
            },
          );
        }
      }),
    );
  }
}
