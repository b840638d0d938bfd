import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { connectNats, type NatsServer, startNatsServer } from '../../../src/comm/index.ts';
import {
  type AllowList,
  CLIENT_INBOX,
  type ClientCompute,
  type ClientFit,
  type ClientReport,
  ClientState,
  defaultAllowList,
  FederatedClient,
  type JobDescription,
  maskUpdates,
  NatsClients,
  type NatsClientsOptions,
  Roster,
  type RosterNews,
  RunningTreeSum,
  type SharedStart,
} from '../../../src/schedulers/index.ts';

/** What a client of a test does when it is asked to train. */
export type Fit = (
  start: Float32Array,
  about: { readonly client: number; readonly round: number; readonly kept: Readonly<Record<string, Float32Array>> },
) => Promise<{ readonly update: Float32Array; readonly kept?: Readonly<Record<string, Float32Array>> }>;

/** How many parameters there are, and how long a round may take. */
export interface FederationOptions
  extends Partial<
    Pick<NatsClientsOptions, 'deadlineMs' | 'maxNorm' | 'wanted' | 'kept' | 'secure' | 'onArrival' | 'compression'>
  > {
  readonly params: number;
  readonly leaseMs?: number;
  /** Whether clients are told that updates are masked. Default: as `secure` has it. */
  readonly masked?: boolean;
  /** Of the NATS server; with logins of the users `coordinator` and `client`. */
  readonly configFile?: string;
  readonly passwords?: { readonly coordinator: string; readonly client: string };
}

/** A server and clients that talk over a real NATS server, in one process; what clients compute is up to the test. */
export class Federation {
  readonly params: number;
  readonly news: RosterNews[] = [];
  readonly warnings: string[] = [];
  readonly folder = mkdtempSync(join(tmpdir(), 'plexus-federation-'));
  server!: NatsClients;
  roster!: Roster;
  readonly #options: FederationOptions;
  readonly #nats: NatsServer;
  readonly #connections: NatsConnection[] = [];
  readonly #running: { readonly stop: AbortController; readonly done: Promise<void> }[] = [];
  #version = 0;

  private constructor(options: FederationOptions, nats: NatsServer) {
    this.#options = options;
    this.#nats = nats;
    this.params = options.params;
  }

  static async start(options: FederationOptions): Promise<Federation> {
    const federation = new Federation(
      options,
      await startNatsServer(options.configFile === undefined ? {} : { configFile: options.configFile }),
    );
    await federation.open();
    return federation;
  }

  get url(): string {
    return this.#nats.url;
  }

  /** Starts a server: a new session. */
  async open(): Promise<void> {
    const { params, leaseMs = 10_000, deadlineMs = 20_000, maxNorm = null, wanted = [], kept } = this.#options;
    const { secure = null, compression = null, onArrival } = this.#options;
    const nats = await this.connect();
    this.roster = await Roster.open({
      file: join(this.folder, 'clients.json'),
      leaseMs,
      news: (each) => this.news.push(each),
    });
    this.server = new NatsClients({
      ...{ nats, job: 'test', run: 'run', roster: this.roster, deadlineMs, maxNorm, wanted, secure, compression },
      ...(onArrival ? { onArrival } : {}),
      description: this.description,
      local: {
        ...{ paramsSize: params, stateSize: 0, receivedSize: params, sentSize: params },
        publish: (values, state, round = {}) => this.published(values, state, round),
        add: (updates) => {
          const sum = new RunningTreeSum(updates.length);
          for (const [i, { update, report }] of updates.entries())
            sum.add(i + 1, report.problem === null ? update.map((value) => value * report.weight) : null);
          return sum.total();
        },
        evaluate: async () => ({ examples: 0, loss: 0, correct: null }),
      },
      beatMs: leaseMs / 5,
      kept: kept ?? (() => ({ now: null, durable: null })),
      warn: (message) => this.warnings.push(message),
    });
  }

  /** Adds a client and waits until it is there. `raw`: what it computes with, whole; `allow`: what it lets itself be asked. */
  async client(
    name: string,
    train: Fit,
    raw: Partial<ClientCompute> = {},
    allow: Partial<AllowList> = {},
  ): Promise<{ stop(): Promise<void> }> {
    const state = await ClientState.open(join(this.folder, name));
    const nats = await this.connect(CLIENT_INBOX);
    const stop = new AbortController();
    const { params } = this;
    const compute: ClientCompute = {
      ...{ examples: 10, paramsSize: params, stateSize: 0 },
      fit: async ({ params: start }, { client, round, kept }) => {
        const began = performance.now();
        const { update, kept: now = {} } = await train(start, { client, round, kept });
        const ms = performance.now() - began;
        const report: ClientReport = {
          client,
          examples: 10,
          steps: 1,
          weight: 1,
          loss: 1,
          norm: 1,
          kept: now,
          ms,
          problem: null,
        };
        return { update, report };
      },
      mask: async (job) => {
        const update = job.update.slice();
        maskUpdates([{ ...job, update }]);
        return update;
      },
      ask: async (_start, { client }, task, config) => ({ task, config, client }),
      loss: async () => ({ loss: 20, examples: 10, correct: 5 }),
      close: async () => undefined,
      ...raw,
    };
    const client = new FederatedClient({
      ...{ nats, job: 'test', name, state, allow: { ...defaultAllowList(), ...allow }, part: null, once: false },
      ...{ compute: async () => compute, log: () => undefined, signal: stop.signal },
    });
    const done = client
      .run()
      .finally(() => state.close())
      .finally(() => nats.close());
    const running = { stop, done };
    this.#running.push(running);
    await this.roster.enough(this.roster.ready + 1, 10_000, AbortSignal.timeout(10_000), () => undefined);
    return {
      stop: async () => {
        stop.abort(new Error('stopped by the test'));
        await done;
      },
    };
  }

  /** A round with everybody who is there. */
  async round(round: number, start = new Float32Array(this.params)) {
    this.server.begin();
    const shared = this.published(start, new Float32Array(0), {});
    return this.server.sum(shared, this.fits(round));
  }

  fits(round: number): ClientFit[] {
    return this.roster.numbers().map((client) => ({
      ...{ client, round, examples: new Int32Array(10), epochs: 1, maxSteps: null, firstStep: 0 },
      ...{ weight: client + 1, clipNorm: null, kept: {} },
    }));
  }

  published(params: Float32Array, state: Float32Array, round: Readonly<Record<string, Float32Array>>): SharedStart {
    this.#version += 1;
    const shared = (values: Float32Array) => {
      const buffer = new SharedArrayBuffer(values.byteLength);
      new Float32Array(buffer).set(values);
      return buffer;
    };
    const entries = Object.entries(round).map(([name, values]) => [name, shared(values)]);
    return { version: this.#version, params: shared(params), state: shared(state), round: Object.fromEntries(entries) };
  }

  async connect(inboxPrefix = '_INBOX'): Promise<NatsConnection> {
    const user = inboxPrefix === CLIENT_INBOX ? 'client' : 'coordinator';
    const password = this.#options.passwords?.[user];
    const login = password === undefined ? {} : { user, password };
    const connection = await connectNats({ servers: this.url, inboxPrefix, ...login });
    this.#connections.push(connection);
    return connection;
  }

  get description(): JobDescription {
    return {
      ...{ seed: 1, model: { name: 'mlp', args: {} }, optim: {}, objective: { name: 'control-variates', config: {} } },
      ...{ batch: 10, engine: 'onnx', data: { section: {}, encoding: {} }, partition: {} },
      more: this.#options.compression ? { compression: this.#options.compression.config } : {},
      secure: this.#options.masked ?? (this.#options.secure ?? null) !== null,
    };
  }

  async close(): Promise<void> {
    for (const { stop } of this.#running) stop.abort(new Error('the test is over'));
    await Promise.all(this.#running.map(({ done }) => done));
    await this.server.close('the test is over');
    await this.roster.close();
    for (const connection of this.#connections) await connection.close();
    await this.#nats.stop('kill');
    rmSync(this.folder, { recursive: true, force: true });
  }
}
