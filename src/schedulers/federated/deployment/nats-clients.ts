import { randomBytes, randomUUID } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import { BlobServer, ControlRequester, ControlResponder } from '../../../comm/index.ts';
import { PLEXUS_VERSION } from '../../../worker/index.ts';
import type { FitPool } from '../fit-pool.ts';
import type { ClientFit, ClientReport, EvaluateReport, SharedStart } from '../fit-task.ts';
import type { Fitters } from '../fitters.ts';
import { BadUpdate, checkUpdate } from './check-update.ts';
import { RoundsFailed } from './errors.ts';
import { GatheredSum } from './gathered-sum.ts';
import {
  clientOwner,
  clientSubject,
  FEDERATED_PROTOCOL,
  type FitAnswer,
  fitAnswerSchema,
  type JobDescription,
  lossSchema,
  serverSubject,
  type ToClient,
  toServerSchema,
  type VectorList,
  type Welcome,
} from './messages.ts';
import { bytesOf, joinVectors, type Offered, offer, packed, splitVectors, take, unpacked } from './payload.ts';
import type { LiveClient, Roster } from './roster.ts';

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
  readonly warn: (message: string) => void;
}

/** Times in a run that an update above the norm bound is left at that; then its client is quarantined. */
const LARGE_UPDATES = 3;
/** Vectors besides the update that a client may send, in multiples of the model's size. */
const MAX_VECTORS = 8;
/** Versions of the parameters that clients may still be fetching. */
const KEPT_STARTS = 4;

/** A request that is about to be sent, without what all have in common. */
type Asking = DistributiveOmit<ToClient, 'session' | 'round' | 'client' | 'version' | 'start' | 'vectors'>;

interface Wire {
  readonly start: Offered;
  readonly vectors: VectorList;
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
  readonly #requester: ControlRequester;
  readonly #responder: ControlResponder;
  readonly #blobs: BlobServer;
  /** Parameters as they travel, newest last. */
  readonly #wires = new Map<SharedStart, Wire>();
  readonly #large = new Map<number, number>();
  readonly #keeping = new Set<number>();
  /** When the round that is under way has to be over. */
  #until = 0;
  #bytes = { down: 0, up: 0 };

  constructor(options: NatsClientsOptions) {
    const { nats, job, local } = options;
    this.#options = options;
    this.paramsSize = local.paramsSize;
    this.stateSize = local.stateSize;
    this.receivedSize = local.receivedSize;
    this.sentSize = local.sentSize;
    this.#requester = new ControlRequester(nats);
    this.#blobs = new BlobServer({ nats, job, owner: `fed-${this.session}`, secret: this.#secret, listen: null });
    this.#responder = new ControlResponder(nats, serverSubject(job), (message) => this.#told(message));
  }

  /** Begins a round: from now on its deadline runs. */
  begin(): void {
    this.#until = performance.now() + this.#options.deadlineMs;
    this.#bytes = { down: 0, up: 0 };
  }

  /** Whether a client, as it last said, keeps something for its next round. */
  keeps(client: number): boolean {
    return this.#keeping.has(client);
  }

  /** Bytes of vectors that went to clients, and came from them, since the round began. */
  get bytes(): { readonly down: number; readonly up: number } {
    return { ...this.#bytes };
  }

  publish(params: Float32Array, state: Float32Array, round: Readonly<Record<string, Float32Array>> = {}): SharedStart {
    return this.#options.local.publish(params, state, round);
  }

  async sum(
    start: SharedStart,
    cohort: readonly ClientFit[],
    options: { readonly signal?: AbortSignal; readonly onReport?: (report: ClientReport) => void } = {},
  ): Promise<{ readonly sum: Float32Array | null; readonly reports: readonly ClientReport[] }> {
    const total = new GatheredSum(cohort.length);
    const reports = await Promise.all(
      cohort.map(async (fit, i) => {
        const { update, report } = await this.#fit(start, fit, options.signal);
        // Added as they come: where each belongs in the tree does not depend on that.
        if (update && fit.weight !== 1)
          for (let k = 0; k < update.length; k++) update[k] = (update[k] as number) * fit.weight;
        total.add(i, update);
        options.onReport?.(report);
        return report;
      }),
    );
    return { sum: total.total(), reports };
  }

  each(
    start: SharedStart,
    cohort: readonly ClientFit[],
    options: { readonly signal?: AbortSignal; readonly onReport?: (report: ClientReport) => void } = {},
  ): Promise<{ readonly update: Float32Array; readonly report: ClientReport }[]> {
    return Promise.all(
      cohort.map(async (fit) => {
        const { update, report } = await this.#fit(start, fit, options.signal);
        options.onReport?.(report);
        return { update: update ?? new Float32Array(this.paramsSize + this.stateSize), report };
      }),
    );
  }

  add(updates: Parameters<FitPool['add']>[0]): Float32Array | null {
    return this.#options.local.add(updates);
  }

  /** @throws RoundsFailed naming the client that did not answer, since the others' answers are of no use without it */
  ask(start: SharedStart, clients: readonly Who[], task: string, config: unknown): Promise<unknown[]> {
    return this.#all(clients, async (who) =>
      unpacked(await this.#request(start, who, { type: 'ask', task, config: packed(config) })),
    );
  }

  /** With a client: its own examples, by itself. Else the server's own. @throws RoundsFailed naming the client that did not answer */
  async evaluate(...args: Parameters<FitPool['evaluate']>): Promise<EvaluateReport> {
    const [start, , , client] = args;
    if (client === undefined) return this.#options.local.evaluate(...args);
    const [report] = await this.#all([{ client, round: 0 }], async (who) => {
      const parsed = lossSchema.safeParse(await this.#request(start, who, { type: 'loss' }));
      if (parsed.success) return parsed.data;
      throw new BadUpdate(`its loss makes no sense: ${parsed.error.issues[0]?.message}`, true);
    });
    return report as EvaluateReport;
  }

  /** Tells the clients that this session is over, and lets go of everything. */
  async close(reason: string): Promise<void> {
    this.#responder.close();
    const { roster, job } = this.#options;
    const { session } = this;
    await Promise.all(
      roster.all().map(({ id, name }) =>
        this.#requester
          .request(clientSubject(job, name, id), { type: 'end', session, reason } satisfies ToClient, {
            deadlineMs: 1000,
          })
          // (Who does not hear it notices that nobody answers it any more.)
          .catch(() => undefined),
      ),
    );
    this.#requester.close();
    await this.#blobs.close();
  }

  // ---- what clients tell

  #told(message: unknown): unknown {
    const parsed = toServerSchema.safeParse(message);
    if (!parsed.success) throw new Error(`the server does not understand this: ${parsed.error.issues[0]?.message}`);
    const told = parsed.data;
    const { roster, run, description: job, beatMs } = this.#options;
    if (told.type === 'join') {
      if (told.protocol !== FEDERATED_PROTOCOL || told.version !== PLEXUS_VERSION)
        throw new Error(
          `the server is Plexus ${PLEXUS_VERSION} (messages ${FEDERATED_PROTOCOL}), the client ${told.version} (${told.protocol}): install the same`,
        );
      roster.join(told);
      return { session: this.session, run, job, secret: this.#secret, beatMs } satisfies Welcome;
    }
    if (told.session !== this.session) {
      if (told.type === 'beat') return { known: false };
      throw new Error('this session is over: join again');
    }
    switch (told.type) {
      case 'ready':
        if (told.params !== this.paramsSize || told.state !== this.stateSize)
          throw new Error(
            `its model has ${told.params} parameters and ${told.state} numbers of state, the server's ${this.paramsSize} and ${this.stateSize}`,
          );
        roster.arrive(told);
        return {};
      case 'refuse':
        roster.refuse(told);
        this.#options.warn(`client ${told.name} takes no part: ${told.reason}`);
        return {};
      case 'beat':
        return { known: roster.beat(told) };
      case 'leave':
        roster.leave(told, told.reason);
        return {};
    }
  }

  // ---- what clients are asked

  /** One client's fit. Never rejects for what the client does: that is the report's problem. */
  async #fit(
    start: SharedStart,
    fit: ClientFit,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly update: Float32Array | null; readonly report: ClientReport }> {
    const began = performance.now();
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
        wanted: [...this.#options.wanted],
      };
      const answer = await this.#request(start, { client, round }, asking, signal);
      const { update, norm, kept, sent, told } = await this.#checked(start, { client, round }, answer, signal);
      const { steps, loss, lr, problem, keeps } = told;
      if (keeps) this.#keeping.add(client);
      const ms = performance.now() - began;
      const report = { ...base, steps, loss, norm, kept, sent, ms, problem, ...(lr === undefined ? {} : { lr }) };
      return { update, report };
    } catch (error) {
      if (signal?.aborted) throw error;
      if (error instanceof BadUpdate) this.#blame(client, error);
      const problem = this.#problem(error as Error);
      return {
        update: null,
        report: { ...base, steps: 0, loss: Number.NaN, norm: 0, ms: performance.now() - began, problem },
      };
    }
  }

  /** Fetches and checks what a client answers to a fit. @throws BadUpdate, or what fetching throws */
  async #checked(start: SharedStart, { client, round }: Who, answer: unknown, signal: AbortSignal | undefined) {
    const parsed = fitAnswerSchema.safeParse(answer);
    if (!parsed.success) throw new BadUpdate(`its answer makes no sense: ${parsed.error.issues[0]?.message}`, true);
    const told: FitAnswer = parsed.data;
    if (told.session !== this.session || told.round !== round || told.version !== start.version)
      throw new BadUpdate(
        `it answers with an update of round ${told.round}, version ${told.version}; round ${round}, version ${start.version} was asked for`,
        true,
      );
    if (told.problem !== null || told.update === null)
      return {
        update: null,
        norm: 0,
        kept: {},
        sent: {},
        told: { ...told, problem: told.problem ?? 'it sent no update' },
      };
    if (!Number.isFinite(told.loss)) throw new BadUpdate(`its loss is ${told.loss}`, true);
    const { parcel, vectors: list } = told.update;
    const size = this.paramsSize + this.stateSize;
    const [first] = list;
    if (first?.name !== 'update' || first.length !== size)
      throw new BadUpdate(`its update has ${first?.length ?? 0} numbers, ${size} were expected`, true);
    if (bytesOf(list) > 4 * MAX_VECTORS * (size + 1024))
      throw new BadUpdate(`it sends ${bytesOf(list)} bytes, which is too much for a model of ${size} numbers`, true);
    const { nats, job, maxNorm } = this.#options;
    const live = this.#live(client);
    const bytes = await take(parcel, {
      ...{ nats, job, secret: live.secret, owner: clientOwner(live.id), length: bytesOf(list) },
      deadlineMs: Math.max(1, this.#until - performance.now()),
      signal: signal ? AbortSignal.any([live.gone.signal, signal]) : live.gone.signal,
    }).catch((error: Error) => {
      throw error instanceof RangeError ? new BadUpdate(`its update: ${error.message}`, true) : error;
    });
    this.#bytes.up += bytes.length;
    const vectors = splitVectors(bytes, list);
    const update = vectors.get('update') as Float32Array;
    const norm = checkUpdate(update, { params: this.paramsSize, state: this.stateSize, maxNorm });
    const kept: Record<string, Float32Array> = {};
    const sent: Record<string, Float32Array> = {};
    for (const [name, values] of vectors) {
      if (name === 'update') continue;
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) throw new BadUpdate(`number ${bad} of "${name}" is ${values[bad]}`, true);
      if (name.startsWith('kept/') && this.#options.wanted.includes(name.slice(5))) kept[name.slice(5)] = values;
      if (name.startsWith('sent/')) sent[name.slice(5)] = values;
    }
    const missing = this.#options.wanted.find((name) => kept[name]?.length !== this.paramsSize);
    if (missing !== undefined)
      throw new BadUpdate(
        `it sends ${kept[missing]?.length ?? 'no'} numbers of "${missing}", ${this.paramsSize} were expected`,
        true,
      );
    return { update, norm, kept, sent, told };
  }

  /** Asks one client, until it answers or the round is over. */
  async #request(start: SharedStart, { client, round }: Who, asking: Asking, signal?: AbortSignal): Promise<unknown> {
    const { job } = this.#options;
    const live = this.#live(client);
    const wire = this.#wire(start);
    const deadlineMs = this.#until - performance.now();
    if (deadlineMs <= 0) throw new Error('the deadline of the round had passed');
    const { session } = this;
    const { version } = start;
    const message = {
      ...asking,
      session,
      round,
      client,
      version,
      start: wire.start.parcel,
      vectors: wire.vectors,
    } as ToClient;
    this.#bytes.down += bytesOf(wire.vectors);
    return this.#requester.request(clientSubject(job, live.name, live.id), message, {
      deadlineMs,
      signal: signal ? AbortSignal.any([live.gone.signal, signal]) : live.gone.signal,
    });
  }

  /** Asks all of them, and fails if one does not answer: an answer without it would be another's. */
  #all<T>(clients: readonly Who[], one: (who: Who) => Promise<T>): Promise<T[]> {
    return Promise.all(
      clients.map(async (who) => {
        try {
          return await one(who);
        } catch (error) {
          if (error instanceof BadUpdate) this.#blame(who.client, error);
          const name = this.#options.roster.nameOf(who.client);
          throw new RoundsFailed(
            `client ${name} did not answer a question of round ${who.round}: ${this.#problem(error as Error)}`,
            {
              cause: error,
            },
          );
        }
      }),
    );
  }

  #live(client: number): LiveClient {
    const live = this.#options.roster.live(client);
    if (!live) throw new Error('it left');
    return live;
  }

  /** Parameters as they travel: made once, however many clients get them. */
  #wire(start: SharedStart): Wire {
    let wire = this.#wires.get(start);
    if (wire) return wire;
    const { bytes, list } = joinVectors([
      ['params', new Float32Array(start.params)],
      ['state', new Float32Array(start.state)],
      ...Object.entries(start.round).map(([name, values]) => [name, new Float32Array(values)] as const),
    ]);
    wire = { start: offer(this.#blobs, `fed-${this.session}`, `start ${start.version}`, bytes), vectors: list };
    this.#wires.set(start, wire);
    for (const [oldest, { start: offered }] of this.#wires) {
      if (this.#wires.size <= KEPT_STARTS) break;
      offered.withdraw();
      this.#wires.delete(oldest);
    }
    return wire;
  }

  /** A client whose update cannot be used: at once, or if it is only too large the third time, it is quarantined. */
  #blame(client: number, { malicious, message }: BadUpdate): void {
    const times = (this.#large.get(client) ?? 0) + 1;
    this.#large.set(client, times);
    if (malicious) this.#options.roster.quarantine(client, message);
    else if (times >= LARGE_UPDATES) this.#options.roster.quarantine(client, `${message}, ${times} times`);
  }

  #problem({ name, message }: Error): string {
    if (name === 'ControlTimeout' || name === 'BlobTimeout')
      return `no answer within the ${this.#options.deadlineMs / 1000} s of a round`;
    // (Which subject it was asked on says nothing to a reader.)
    return name === 'ControlError' ? message.replace(/^plexus\.\S+: /, '') : message;
  }
}

/** Which client, and for which round. */
type Who = Pick<ClientFit, 'client' | 'round'>;

type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;
