import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type KV, Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import {
  BlobGone,
  ControlRequester,
  connectNats,
  EventReceiver,
  fetchBlob,
  type LinkKind,
  type NatsServer,
  startNatsServer,
} from '../../src/comm/index.ts';
import {
  type DataConfig,
  dataSchema,
  openDataset,
  prepareData,
  preparedDigest,
  tokenizerOf,
} from '../../src/data/index.ts';
import {
  buildModel,
  type ModelConfig,
  modelParams,
  modelSchema,
  namedState,
  type ResolvedModel,
} from '../../src/modules/index.ts';
import { buildOptimizer, optimSchema } from '../../src/optim/index.ts';
import { compilePlan, type Program, parallelSchema, summariseModel } from '../../src/plan/index.ts';
import {
  type AgentEvent,
  type AgentReply,
  type AgentRequest,
  CLUSTER_PROTOCOL_VERSION,
  clusterKeys,
  clusterSubjects,
  type MemberRecord,
  PLEXUS_VERSION,
  type RemoteJob,
  runAgent,
  type SnapshotInfo,
  type StepReport,
  type TensorSource,
  tensorName,
  type WorkerJob,
} from '../../src/worker/index.ts';

/** A nats-server with JetStream, and the folder of its files. */
export async function jetStream(): Promise<{ server: NatsServer; stop(): Promise<void> }> {
  const storeDir = await mkdtemp(join(tmpdir(), 'plexus-agent-nats-'));
  const server = await startNatsServer({ storeDir });
  return {
    server,
    stop: async () => {
      await server.stop('kill');
      await rm(storeDir, { recursive: true, force: true });
    },
  };
}

/** What a run is about: the same jobs for one process (`jobs`) and for agents (`remote`). */
export interface Work {
  readonly jobs: readonly WorkerJob[];
  readonly remote: readonly RemoteJob[];
  /** Of all tensors that last from step to step. */
  readonly names: readonly string[];
}

/** A tiny mixture of experts on a made-up text. */
export class Workshop {
  readonly folder: string;
  readonly #data: DataConfig;

  private constructor(folder: string) {
    this.folder = folder;
    this.#data = dataSchema.parse({
      name: 'text',
      path: join(folder, 'corpus.txt'),
      context: 8,
      tokenizer: { kind: 'char' },
    });
  }

  static async open(): Promise<Workshop> {
    const folder = await mkdtemp(join(tmpdir(), 'plexus-agent-work-'));
    const lines = Array.from({ length: 120 }, (_, i) => `${i * 7919} whales saw ${(i * 31) % 17} ships\n`);
    await writeFile(join(folder, 'corpus.txt'), lines.join(''));
    return new Workshop(folder);
  }

  close(): Promise<void> {
    return rm(this.folder, { recursive: true, force: true });
  }

  async work(parallel: Record<string, unknown>, more: Partial<WorkerJob> = {}): Promise<Work> {
    const data = await prepareData(this.#data);
    const { info } = openDataset(data);
    const model = modelSchema.parse({
      name: 'transformer-lm',
      args: { layers: 2, dim: 8, heads: 2, moe: { experts: 2, top_k: 1, every: 2 } },
    }) as ModelConfig & ResolvedModel;
    const optim = optimSchema.parse({ name: 'adamw', lr: 0.01 });
    const batch = { global: 8, micro: 2 };
    const built = await buildModel(model, info);
    const { optimizer } = buildOptimizer(optim, { totalSteps: 50 });
    const summary = await summariseModel(built.model, info, batch.micro, optimizer);
    const plan = compilePlan({ summary, parallel: parallelSchema.parse(parallel), batch });
    const common = {
      runId: 'test',
      seed: 7,
      model,
      optim,
      totalSteps: 50,
      engine: { kind: 'onnx', device: 'cpu', threads: 1 } as const,
      batch,
      numerics: 'exact' as const,
      remat: 'none' as const,
      deadlineMs: 20_000,
      trace: false,
      ...more,
    };
    const programs = plan.programs.map((train, rank) => ({ rank, train, evaluate: plan.evaluate[rank] as Program }));
    const params = modelParams(built.model).map(({ path, spec }) => ({ path, shape: spec.shape, decay: spec.decay }));
    const states = built.model.layers.flatMap(({ name, module }) => namedState(module, name));
    return {
      names: [
        ...params.flatMap((param) => [
          tensorName.param(param.path),
          ...optimizer.slots(param).map((slot) => tensorName.slot(slot, param.path)),
        ]),
        ...states.map(({ path }) => tensorName.state(path)),
      ],
      jobs: programs.map((program) => ({ ...common, ...program, data, checkpoint: null })),
      remote: programs.map((program) => ({
        ...common,
        ...program,
        data: this.#data,
        tokenizer: JSON.stringify(tokenizerOf(data)),
        dataSha256: preparedDigest(data),
        modelSha256: null,
      })),
    };
  }
}

/** An agent in this process. */
export interface TestAgent {
  readonly id: string;
  readonly lines: readonly string[];
  readonly done: Promise<void>;
  leave(): void;
}

type Ask = AgentRequest extends infer R
  ? R extends AgentRequest
    ? Omit<R, 'term' | 'generation' | 'seq'> & {
        readonly term?: number;
        readonly generation?: number;
        readonly seq?: number;
      }
    : never
  : never;

type WorkerEventOf = Extract<AgentEvent, { type: 'worker' }>;

/** A generation that has begun: seats by rank. */
export interface Begun {
  readonly generation: number;
  readonly seats: readonly { readonly agent: string; readonly slot: number }[];
  /** What each agent had when it was prepared. */
  readonly snapshots: ReadonlyMap<string, readonly SnapshotInfo[]>;
}

/** A coordinator that does what a test tells it. */
export class Script {
  readonly job: string;
  readonly #nats: NatsConnection;
  readonly #requester: ControlRequester;
  readonly #receiver: EventReceiver;
  readonly #url: string;
  readonly events: AgentEvent[] = [];
  readonly kv: KV;
  readonly #agents: { readonly abort: AbortController; readonly done: Promise<void> }[] = [];
  #wake: (() => void)[] = [];
  #seq = 0;
  #secret = '';
  term = 1;

  private constructor(job: string, url: string, nats: NatsConnection, kv: KV) {
    this.job = job;
    this.#url = url;
    this.#nats = nats;
    this.kv = kv;
    this.#requester = new ControlRequester(nats);
    this.#receiver = new EventReceiver(nats, clusterSubjects(job).events, (event) => {
      this.events.push(event as AgentEvent);
      for (const wake of this.#wake.splice(0)) wake();
    });
  }

  static async open(url: string): Promise<Script> {
    const job = `t${randomBytes(4).toString('hex')}`;
    const nats = await connectNats({ servers: url });
    const kv = await new Kvm(nats).create(clusterKeys.bucket(job), { history: 1 });
    return new Script(job, url, nats, kv);
  }

  /** Starts an agent and waits until it is a member. */
  async agent(name: string, options: Partial<Parameters<typeof runAgent>[0]> = {}): Promise<TestAgent> {
    const abort = new AbortController();
    const lines: string[] = [];
    const done = runAgent({
      nats: { servers: this.#url },
      job: this.job,
      name,
      log: (line) => lines.push(line),
      signal: abort.signal,
      ...options,
    });
    this.#agents.push({ abort, done });
    const watch = await this.kv.watch({ key: clusterKeys.member('*') });
    let ended: unknown = null;
    void done.catch((error: unknown) => {
      ended = error;
      watch.stop();
    });
    for await (const entry of watch) {
      if (entry.operation !== 'PUT') continue;
      const { id } = entry.json<MemberRecord>();
      if (!id.startsWith(`${name}-`)) continue;
      watch.stop();
      return { id, lines, done, leave: () => abort.abort(new Error('Ctrl-C')) };
    }
    throw ended ?? new Error('the agent ended');
  }

  async member(id: string): Promise<MemberRecord | null> {
    const entry = await this.kv.get(clusterKeys.member(id));
    return entry?.operation === 'PUT' ? entry.json<MemberRecord>() : null;
  }

  ask(agent: string, generation: number, ask: Ask, deadlineMs = 10_000): Promise<AgentReply> {
    const request = { term: this.term, generation, seq: this.#seq++, ...ask };
    return this.#requester.request<AgentReply>(clusterSubjects(this.job).agent(agent), request, { deadlineMs });
  }

  /** Waits for an event that fits, among those from `from` on. */
  async event<T extends AgentEvent>(fits: (event: AgentEvent) => event is T, from?: number): Promise<T>;
  async event(fits: (event: AgentEvent) => boolean, from?: number): Promise<AgentEvent>;
  async event(fits: (event: AgentEvent) => boolean, from = 0): Promise<AgentEvent> {
    const until = Date.now() + 15_000;
    for (;;) {
      const found = this.events.slice(from).find(fits);
      if (found) return found;
      if (Date.now() > until)
        throw new Error(`no such event among ${JSON.stringify(this.events.slice(from)).slice(0, 2000)}`);
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        timer = setTimeout(resolve, 500);
      });
      clearTimeout(timer);
    }
  }

  /** Prepares and assigns a generation and waits until its ranks are ready. */
  async begin(
    generation: number,
    seats: Begun['seats'],
    work: Work,
    link: (a: number, b: number) => LinkKind,
    options: {
      readonly restore?: { readonly step: number; readonly prefer?: readonly string[] };
      readonly replicate?: (rank: number) => { to: string; names: readonly string[] } | null;
      readonly also?: readonly string[];
      readonly change?: (job: RemoteJob) => RemoteJob;
    } = {},
  ): Promise<Begun> {
    const secret = randomBytes(16).toString('hex');
    this.#secret = secret;
    const members = [...new Set([...seats.map(({ agent }) => agent), ...(options.also ?? [])])];
    const ranksOf = (agent: string) => [...seats.keys()].filter((rank) => seats[rank]?.agent === agent);
    const prepared = await Promise.all(
      members.map(async (agent) => {
        const reply = await this.ask(agent, generation, {
          type: 'prepare',
          version: PLEXUS_VERSION,
          protocol: CLUSTER_PROTOCOL_VERSION,
          slots: ranksOf(agent).map((rank) => seats[rank]!.slot),
          ranks: ranksOf(agent),
          secret,
          world: seats.length,
        });
        if (!reply.ok || reply.type !== 'prepared') throw new Error(JSON.stringify(reply));
        return [agent, reply] as const;
      }),
    );
    const replies = new Map(prepared);
    const snapshots = new Map(prepared.map(([agent, reply]) => [agent, reply.snapshots]));
    const addresses = seats.map(
      ({ agent, slot }) => replies.get(agent)!.addresses.find((address) => address.slot === slot)!,
    );
    const links = seats.map((_, a) =>
      seats.map((__, b) => (a === b ? ('-' as const) : link(Math.min(a, b), Math.max(a, b)))),
    );
    const { restore } = options;
    await Promise.all(
      [...new Set(seats.map(({ agent }) => agent))].map((agent) =>
        this.accepted(agent, generation, {
          type: 'assign',
          ranks: ranksOf(agent).map((rank) => ({
            slot: seats[rank]!.slot,
            job: (options.change ?? ((job) => job))(work.remote[rank]!),
            links: links[rank]!,
            restore: restore ? { step: restore.step, sources: sourcesAt(snapshots, restore.step, agent) } : null,
            replicate: options.replicate?.(rank) ?? null,
          })),
          addresses,
          members: seats,
          snapshotEvery: 1,
        }),
      ),
    );
    return { generation, seats, snapshots };
  }

  async accepted(agent: string, generation: number, ask: Ask): Promise<void> {
    const reply = await this.ask(agent, generation, ask);
    if (!reply.ok) throw new Error(reply.message);
  }

  /** Lets all ranks run up to a step and gives their reports, by step, then rank. Fails when a rank does. */
  async run({ generation, seats }: Begun, until: number): Promise<StepReport[][]> {
    for (const [rank, { agent }] of seats.entries())
      await this.accepted(agent, generation, { type: 'command', rank, command: { type: 'run', until } });
    const ready = await Promise.all(seats.map((_, rank) => this.worker(generation, rank, 'ready')));
    const first = ready[0]!.step;
    const reports: StepReport[][] = [];
    for (let step = first; step < until; step++)
      reports.push(
        await Promise.all(
          seats.map(async (_, rank) => {
            const found = await this.event((event): event is WorkerEventOf => {
              if (event.type !== 'worker' || event.generation !== generation) return false;
              if (event.event.type === 'failed') throw new Error(event.event.report.message);
              return event.rank === rank && event.event.type === 'step' && event.event.report.step === step;
            });
            return (found.event as { report: StepReport }).report;
          }),
        ),
      );
    return reports;
  }

  /** Waits for a rank's event of a type. */
  async worker<T extends WorkerEventOf['event']['type']>(
    generation: number,
    rank: number,
    type: T,
  ): Promise<Extract<WorkerEventOf['event'], { type: T }>> {
    const found = await this.event((event): event is WorkerEventOf => {
      if (event.type !== 'worker' || event.generation !== generation) return false;
      if (event.event.type === 'failed' && type !== 'failed') throw new Error(event.event.report.message);
      return event.rank === rank && event.event.type === type;
    });
    return found.event as Extract<WorkerEventOf['event'], { type: T }>;
  }

  /** The first failure of a rank. */
  async failed(generation: number, rank: number) {
    const found = await this.event(
      (event): event is WorkerEventOf =>
        event.type === 'worker' &&
        event.generation === generation &&
        event.rank === rank &&
        event.event.type === 'failed',
    );
    return found.event as Extract<WorkerEventOf['event'], { type: 'failed' }>;
  }

  /** Whether an agent offers a blob. */
  async offers(owner: string, blob: string): Promise<boolean> {
    const one = { owner, blob, offset: 0, length: 1, nats: this.#nats, job: this.job };
    try {
      await fetchBlob({ ...one, secret: this.#secret, deadlineMs: 5000 });
      return true;
    } catch (error) {
      if (error instanceof BlobGone) return false;
      throw error;
    }
  }

  /** Waits until all ranks have taken their snapshots of a step, which they do after reporting it. */
  async kept({ generation, seats }: Begun, step: number): Promise<void> {
    for (const [rank, { agent }] of seats.entries())
      await this.until('the snapshot is there', () => this.offers(agent, `snapshot-${generation}-${rank}-${step}`));
  }

  /** Everything that a rank holds now, read through its snapshot, which is freed. */
  async snapshot(generation: number, rank: number, agent: string): Promise<[name: string, data: Float32Array][]> {
    const id = this.#seq++;
    await this.accepted(agent, generation, { type: 'command', rank, command: { type: 'snapshot', id } });
    const { snapshot } = await this.event(
      (event): event is Extract<AgentEvent, { type: 'snapshot' }> => event.type === 'snapshot' && event.id === id,
    );
    const bytes = await fetchBlob({
      nats: this.#nats,
      job: this.job,
      owner: agent,
      blob: snapshot.blob,
      offset: 0,
      length: snapshot.bytes,
      secret: this.#secret,
      deadlineMs: 10_000,
    });
    await this.accepted(agent, generation, { type: 'command', rank, command: { type: 'free', blob: snapshot.blob } });
    const whole = bytes.slice().buffer;
    return snapshot.tensors.map(({ name, shape, offset }) => [
      name,
      new Float32Array(
        whole,
        offset,
        shape.reduce((a, b) => a * b, 1),
      ),
    ]);
  }

  /** Waits until something is so. */
  async until(what: string, is: () => Promise<boolean> | boolean): Promise<void> {
    const until = Date.now() + 10_000;
    while (!(await is())) {
      if (Date.now() > until) throw new Error(`waited too long until ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async close(): Promise<void> {
    const entries = await this.kv.keys(clusterKeys.member('*'));
    this.term += 1;
    for await (const key of entries)
      await this.ask(
        key.slice(clusterKeys.member('').length),
        0,
        { type: 'stop', reason: 'the test is over' },
        500,
      ).catch(
        () => undefined, // it has ended already
      );
    for (const { abort } of this.#agents) abort.abort(new Error('the test is over'));
    await Promise.allSettled(this.#agents.map(({ done }) => done));
    this.#requester.close();
    this.#receiver.close();
    await this.#nats.close();
  }
}

/** Every tensor that lies in some memory at a step, from the agent itself where it has it. */
export function sourcesAt(
  snapshots: ReadonlyMap<string, readonly SnapshotInfo[]>,
  step: number,
  own: string,
): TensorSource[] {
  const sources = new Map<string, TensorSource>();
  for (const [owner, infos] of snapshots)
    for (const info of infos)
      for (const { name, shape, offset } of info.step === step ? info.tensors : [])
        if (!sources.has(name) || owner === own) sources.set(name, { name, shape, owner, blob: info.blob, offset });
  return [...sources.values()];
}
