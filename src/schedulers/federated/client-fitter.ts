import type { UpdateCodec } from '../../comm/index.ts';
import { type Dataset, openDataset, type PreparedStream, type Split, type SplitName } from '../../data/index.ts';
import { createEngine, type DeviceTensor, type Engine } from '../../engine/index.ts';
import { buildModel, type Model, type ResolvedModel } from '../../modules/index.ts';
import { buildOptimizer, type OptimConfig, type OptimizerPlan } from '../../optim/index.ts';
import { float32 } from '../../tensor/index.ts';
import {
  classCounts,
  type LocalObjective,
  type LocalState,
  LocalTrainer,
  objectiveNamed,
  type Place,
  type ShapedTensor,
} from '../local/index.ts';
import { attackedSplit, spoilUpdate } from './attack.ts';
import { type ClientView, clientView } from './client-view.ts';
import { compressUpdate, feedsBack, LEFT_OUT, type Sender, type Sent, uploadCodec } from './compression.ts';
import { clientModel, TaskClients } from './continual/near-data.ts';
import { Evaluator } from './evaluator.ts';
import { type PassesResult, runPasses, stateNameOf } from './fit-passes.ts';
import type {
  ClientFit,
  ClientReport,
  EvaluateClientsTask,
  EvaluateReport,
  EvaluateTask,
  FitJob,
  FitSizes,
  FitTask,
  SharedStart,
} from './fit-task.ts';
import { addLocalNoise } from './privacy/local-noise.ts';
import { gatherRuns, type Run, runsWithout, scatterRuns } from './sent-parts.ts';
import { type ClientQuestion, type ClientTaskContext, clientTaskNamed } from './tasks/index.ts';
import { RunningTreeSum } from './tree-sum.ts';
import { normOf, scaleBy, subtract } from './update-vector.ts';

/** Name of the values that stay with a client, among what it keeps. */
export const PERSONAL = 'personal';

/** What the fits of a round share on one thread. */
interface Start {
  readonly version: number;
  readonly state: LocalState;
  readonly tensors: ReadonlyMap<string, readonly DeviceTensor[]>;
  /** Names of the `round` tensors that were given. */
  readonly given: ReadonlySet<string>;
  readonly params: Float32Array;
  readonly moduleState: Float32Array;
}

/**
 * Trains clients one after another on one engine. All clients share the compiled steps and the uploaded start, so that a
 * small client costs little more than its arithmetic.
 */
export class ClientFitter {
  readonly #job: FitJob;
  readonly #engine: Engine;
  readonly #trainer: LocalTrainer;
  readonly #evaluator: Evaluator;
  readonly #objective: LocalObjective;
  readonly #optimizer: OptimizerPlan;
  readonly #split: Split;
  readonly #classes: number | undefined;
  /** Places of parameters, then of module state, that stay with the client. */
  readonly #personal: readonly [Place[], Place[]];
  readonly #tasks: ClientTaskContext;
  readonly #view: ClientView;
  /** Writes updates as fewer bytes; null where they go as they are. */
  readonly #codec: UpdateCodec | null;
  /** Places of the parameters that are sent. */
  readonly #sent: readonly Run[];
  /** A continual strategy near the data; null where there are no tasks. */
  readonly #continual: TaskClients | null;
  #start: Start | null = null;
  /** Memory of updates that have been added up. */
  readonly #free: Float32Array[] = [];

  private constructor(parts: {
    job: FitJob;
    engine: Engine;
    trainer: LocalTrainer;
    evaluator: Evaluator;
    objective: LocalObjective;
    optimizer: OptimizerPlan;
    split: Split;
    classes: number | undefined;
    model: Model;
    dataset: Dataset;
    view: ClientView;
    continual: TaskClients | null;
  }) {
    this.#job = parts.job;
    this.#engine = parts.engine;
    this.#trainer = parts.trainer;
    this.#evaluator = parts.evaluator;
    this.#objective = parts.objective;
    this.#optimizer = parts.optimizer;
    this.#split = parts.split;
    this.#classes = parts.classes;
    const made = new Map<string, Promise<unknown>>();
    this.#tasks = {
      ...parts,
      open: (start) => this.#open(start).state,
      once: <T>(key: string, make: () => Promise<T>) => {
        const known = made.get(key) ?? make();
        made.set(key, known);
        return known as Promise<T>;
      },
    };
    this.#view = parts.view;
    this.#continual = parts.continual;
    this.#codec = parts.job.compression ? uploadCodec(parts.job.compression) : null;
    const stays = ({ path, shape }: Place) => parts.objective.personal?.({ path, shape, decay: false }) ?? false;
    this.#personal = [parts.trainer.layout.places.filter(stays), parts.trainer.stateLayout.places.filter(stays)];
    this.#sent = runsWithout(parts.trainer.layout.size, this.#personal[0]);
  }

  static async create(job: FitJob): Promise<ClientFitter> {
    const dataset = openDataset(job.data);
    const { continual: tasks } = job;
    const built = (await buildModel(job.model as ResolvedModel, dataset.modelInfo ?? dataset.info)).model;
    const model = tasks ? clientModel(built, dataset, tasks) : built;
    const engine = await createEngine(job.engine);
    const federated = objectiveNamed(job.objective.name, job.objective.config);
    // Schedules of the learning rate count local steps; how many there will be is not known.
    const plan = buildOptimizer(job.optim as OptimConfig, { totalSteps: Number.MAX_SAFE_INTEGER });
    const view = clientView(tasks ? (job.data as PreparedStream).base : job.data, job.shift, job.seed);
    const continual = tasks
      ? new TaskClients({
          ...{ job: tasks, data: job.data as PreparedStream, engine, model, optimizer: plan, federated, view },
          ...{ seed: job.seed, batch: job.batch },
        })
      : null;
    const objective = continual?.objective ?? federated;
    const optimizer = continual?.slots.training ?? plan;
    const parts = { engine, model, info: dataset.info };
    const trainer = new LocalTrainer({ ...parts, optimizer, objective });
    const evaluator = new Evaluator({ ...parts, dataset, layouts: trainer });
    return new ClientFitter({
      job,
      engine,
      trainer,
      evaluator,
      objective,
      optimizer,
      split: dataset.split('train'),
      classes: dataset.info.classes,
      model,
      dataset,
      view,
      continual,
    });
  }

  /** How long the vectors are. */
  get sizes(): FitSizes {
    const { layout, stateLayout, tensorsOf } = this.#trainer;
    const stays = this.#personal.flat().reduce((total, { size }) => total + size, 0);
    const common = layout.size + stateLayout.size - stays;
    const count = (of: (tensor: ShapedTensor) => boolean) =>
      tensorsOf.filter(of).reduce((total, tensor) => total + this.#sizeOf(tensor), 0);
    const readings = (this.#objective.readings ?? []).map(({ what }) =>
      what === 'loss' ? 1 : (this.#job.shared?.length ?? 0) * (this.#classes ?? 0),
    );
    return {
      params: layout.size,
      state: stateLayout.size,
      received: common + count(({ scope }) => scope === 'round'),
      sent: common + count(({ sent }) => sent ?? false) + readings.reduce((total, size) => total + size, 0),
    };
  }

  /** Trains the clients of a task and writes their updates where it says. */
  async fit(task: FitTask): Promise<ClientReport[]> {
    const start = this.#open(task.start);
    const size = this.sizes.params + this.sizes.state;
    const out = new Float32Array(task.into);
    const sum = new RunningTreeSum(task.clients.length, this.#free);
    const reports: ClientReport[] = [];
    for (const [i, client] of task.clients.entries()) {
      const each = task.mode === 'each';
      const update = each ? out.subarray(i * size, (i + 1) * size) : (this.#free.pop() ?? new Float32Array(size));
      const { encoded, ...report } = await this.#one(start, client, update, each ? 1 : client.weight);
      reports.push(task.encoded && encoded ? { ...report, encoded } : report);
      if (each) continue;
      sum.add(i + 1, report.problem === null ? update : null);
      if (report.problem !== null) this.#free.push(update);
    }
    if (task.mode === 'sum') {
      const total = sum.total();
      if (total) {
        out.set(total);
        this.#free.push(total);
      } else out.fill(0);
    }
    return reports;
  }

  /** Measures a start; examples that belong to nobody are seen with the eyes of all groups of clients in turn. */
  async evaluate({ start, split, examples, client, outputs }: EvaluateTask): Promise<EvaluateReport> {
    const { state } = this.#open(start);
    const source = this.#tasks.dataset.split(split);
    if (client !== undefined) return this.#evaluator.evaluate(state, this.#view.of(source, client), examples, outputs);
    let total: EvaluateReport | null = null;
    for (const alike of this.#view.inTurn(examples)) {
      const seen = this.#view.ofGroup(source, alike.group);
      const part = await this.#evaluator.evaluate(state, seen, alike.examples, outputs);
      total = total ? addReports(total, part) : part;
    }
    return total ?? { examples: 0, loss: 0, correct: null };
  }

  /** Measures each client's own model on its own examples. */
  async evaluateClients({ start: shared, split, clients }: EvaluateClientsTask): Promise<EvaluateReport[]> {
    const start = this.#open(shared);
    const reports: EvaluateReport[] = [];
    const source = this.#tasks.dataset.split(split);
    for (const { client, examples, kept } of clients) {
      const own = await this.#ownModel(start, kept);
      reports.push(await this.#evaluator.evaluate(own, this.#view.of(source, client), examples));
    }
    return reports;
  }

  /** Answers a question about one client's data; nothing is trained. */
  answer(question: ClientQuestion): Promise<unknown> {
    const { dataset } = this.#tasks;
    // It is about examples as the client sees them.
    const seen = { ...dataset, split: (name: SplitName) => this.#view.of(dataset.split(name), question.client) };
    return clientTaskNamed(question.task).run(question, { ...this.#tasks, dataset: seen });
  }

  async dispose(): Promise<void> {
    await this.#engine.dispose();
  }

  async #one(start: Start, asked: ClientFit, update: Float32Array, scale: number): Promise<ClientReport> {
    const began = performance.now();
    if (asked.tasks?.over) return this.#taskOver(start, asked, update);
    const settled = asked.tasks ? await this.#tasked.begin(asked, start, this.#evaluator) : null;
    const client = settled ? { ...asked, kept: settled.kept } : asked;
    const { seed, batch, shared = null } = this.#job;
    const base = { client: client.client, examples: client.examples.length, weight: client.weight };
    const failed = (problem: string, steps = 0): ClientReport => {
      update.fill(0);
      return { ...base, steps, loss: Number.NaN, norm: 0, kept: {}, ms: performance.now() - began, problem };
    };
    if (client.examples.length === 0) return failed('it has no examples');
    const own = this.#personalised(start, client.kept[PERSONAL]);
    const first = settled ? this.#tasked.slots.with(own, settled.kept) : own;
    const result = await runPasses({
      trainer: this.#trainer,
      objective: this.#objective,
      client,
      seed,
      batch,
      own: attackedSplit(this.#view.of(this.#split, client.client), client.attack, this.#classes),
      all: this.#split,
      shared,
      settled,
      first,
      tensors: this.#clientTensors(start, client.kept, first, client.examples),
      given: (name) => start.given.has(name),
    });
    const { losses, state } = result;
    const loss = losses.reduce((total, value) => total + value, 0) / losses.length;
    const { norm, personal, written, left } = await this.#update(start, state, update, scale, client);
    const diverged = (problem: string) => failed(`its training diverged: ${problem}`, losses.length);
    if (!Number.isFinite(loss)) return diverged(`the loss is ${loss}`);
    if (!Number.isFinite(norm)) return failed('its update is not finite', losses.length);
    const broken = Object.entries(result.kept).find(([, values]) => !values.every((value) => Number.isFinite(value)));
    if (broken || !result.finite) return diverged(`${broken ? `its own "${broken[0]}"` : 'a loss'} is not finite`);
    const lr = this.#optimizer.lrAt(client.firstStep);
    const after = await this.#trainer.after(first, state, result.tensors, losses.length, lr);
    const sent = await this.#read(first, result, client);
    const kept = {
      ...(settled ? { ...settled.kept, ...(await this.#tasked.slots.read(state)) } : {}),
      ...result.kept,
      ...Object.fromEntries(after),
      ...(personal ? { [PERSONAL]: personal } : {}),
      ...(left ? { [LEFT_OUT]: left } : {}),
    };
    const encoded = written === null ? {} : { updateBytes: written.length, encoded: written };
    const ms = performance.now() - began;
    return { ...base, steps: losses.length, loss, norm, kept, sent, lr, ...encoded, ms, problem: null };
  }

  /** Lets a client do what its continual strategy does when a task is over; its update is nothing. */
  async #taskOver(start: Start, client: ClientFit, update: Float32Array): Promise<ClientReport> {
    const began = performance.now();
    update.fill(0);
    const kept = await this.#tasked.end(client, start, this.#evaluator);
    const broken = Object.keys(kept).find((name) => !kept[name]?.every((value) => Number.isFinite(value)));
    const problem = broken ? `its own "${broken}" is not finite` : null;
    const said = { client: client.client, examples: 0, steps: 0, weight: client.weight, loss: 0, norm: 0 };
    return { ...said, kept: problem === null ? kept : {}, ms: performance.now() - began, problem };
  }

  get #tasked(): TaskClients {
    if (!this.#continual) throw new Error('a client was asked to learn a task, but there are none (FitJob.continual)');
    return this.#continual;
  }

  /** What the objective's readings find. */
  async #read(
    first: LocalState,
    { state }: PassesResult,
    { client, examples }: ClientFit,
  ): Promise<Readonly<Record<string, Float32Array>>> {
    const sent: Record<string, Float32Array> = {};
    for (const { name, at, what } of this.#objective.readings ?? []) {
      const looked = at === 'start' ? first : state;
      if (what === 'loss') {
        const { loss } = await this.#evaluator.evaluate(looked, this.#view.of(this.#split, client), examples);
        sent[name] = Float32Array.of(loss / examples.length);
      } else sent[name] = await this.#evaluator.outputs(looked, 'train', this.#job.shared ?? new Int32Array(0));
    }
    return sent;
  }

  /** All of the objective's tensors, as a client's fit begins with them. */
  #clientTensors(
    start: Start,
    kept: ClientFit['kept'],
    first: LocalState,
    examples: Int32Array,
  ): Map<string, readonly DeviceTensor[]> {
    const tensors = new Map(start.tensors);
    for (const tensor of this.#trainer.tensorsOf) {
      const { name, scope } = tensor;
      if (scope !== 'client' && scope !== 'fit') continue;
      const counts = tensor.initial === 'class-counts' ? this.#classCounts(examples) : undefined;
      const values = scope === 'client' ? kept[name] : counts;
      tensors.set(
        name,
        values ? this.#trainer.objectiveTensors(name, values) : this.#trainer.initialTensors(tensor, first),
      );
    }
    return tensors;
  }

  /** A client's own model: its own layers in their places, then what the objective makes of it. */
  async #ownModel(start: Start, kept: ClientFit['kept']): Promise<LocalState> {
    const first = this.#personalised(start, kept[PERSONAL]);
    const { passes = [], own } = this.#objective;
    if (!own || Object.keys(kept).length === 0) return first;
    const params = await this.#trainer.own(first, this.#clientTensors(start, kept, first, new Int32Array(0)));
    const state = passes.flatMap(({ into }) => (into ? (kept[stateNameOf(into)] ?? []) : []));
    if (state.length === 0) return { ...first, params };
    return { ...first, params, state: this.#trainer.tensors(Float32Array.from(state), this.#trainer.stateLayout) };
  }

  #classCounts(examples: Int32Array): Float32Array {
    const { labels } = this.#split;
    if (!labels || this.#classes === undefined)
      throw new Error(`"${this.#objective.name}" goes by the classes of examples, and this dataset has none`);
    return classCounts(labels, examples, this.#classes);
  }

  #sizeOf({ shape }: ShapedTensor): number {
    return shape === 'param' ? this.#trainer.layout.size : shape.reduce((product, dim) => product * dim, 1);
  }

  /** What a client begins with: the server's values, and its own where it keeps some. */
  #personalised(start: Start, own: Float32Array | undefined): LocalState {
    const [params, state] = this.#personal;
    if (!own || params.length + state.length === 0) return start.state;
    let at = 0;
    const replaced = (tensors: readonly DeviceTensor[], all: readonly Place[], places: readonly Place[]) => {
      const result = [...tensors];
      for (const place of places) {
        const values = own.slice(at, at + place.size);
        at += place.size;
        result[all.indexOf(place)] = this.#engine.upload(float32(values, place.shape));
      }
      return result;
    };
    return {
      params: replaced(start.state.params, this.#trainer.layout.places, params),
      slots: start.state.slots,
      state: replaced(start.state.state, this.#trainer.stateLayout.places, state),
    };
  }

  /**
   * Writes the clipped and scaled difference to the start, zeros where the client keeps its own values. Returns those, and the
   * norm of the parameters' part before it was clipped; where a codec writes the update, also how many bytes that took, and
   * what it left out.
   */
  async #update(
    start: Start,
    end: LocalState,
    update: Float32Array,
    scale: number,
    { clipNorm, noise, attack, round, client, kept }: ClientFit,
  ): Promise<UpdateResult> {
    const { params } = this.sizes;
    await this.#trainer.vector(end.params, this.#trainer.layout, update.subarray(0, params));
    await this.#trainer.vector(end.state, this.#trainer.stateLayout, update.subarray(params));
    const [ownParams, ownState] = this.#personal;
    const stays = [
      ...ownParams.map((place) => ({ place, from: 0 })),
      ...ownState.map((place) => ({ place, from: params })),
    ];
    const personal = new Float32Array(stays.reduce((sum, { place }) => sum + place.size, 0));
    let at = 0;
    for (const { place, from } of stays) {
      const part = update.subarray(from + place.offset, from + place.offset + place.size);
      personal.set(part, at);
      at += place.size;
    }
    subtract(update.subarray(0, params), start.params);
    subtract(update.subarray(params), start.moduleState);
    for (const { place, from } of stays) update.fill(0, from + place.offset, from + place.offset + place.size);
    if (attack) spoilUpdate(update, attack, round, client);
    const norm = normOf(update.subarray(0, params));
    if (clipNorm !== null && norm > clipNorm) scaleBy(update.subarray(0, params), clipNorm / norm);
    if (noise) addLocalNoise(update.subarray(0, params), noise, { seed: this.#job.seed, round, client });
    const sender = { seed: this.#job.seed, round, client };
    // (Noise of the client's own makes an update as large as it is meant to be.)
    const bound = noise ? null : clipNorm;
    const packed = Number.isFinite(norm) ? this.#pack(update.subarray(0, params), sender, kept[LEFT_OUT], bound) : null;
    // Weighted after it was rounded, as an update that was sent by itself is.
    if (scale !== 1) scaleBy(update, scale);
    const finite = personal.every((value) => Number.isFinite(value));
    return {
      norm: finite ? norm : Number.NaN,
      personal: stays.length === 0 ? null : personal,
      written: packed?.bytes ?? null,
      left: packed?.left ?? null,
    };
  }

  /** Makes a parameters' update what the server decodes of it, if there is a codec. */
  #pack(update: Float32Array, sender: Sender, before: Float32Array | undefined, bound: number | null): Sent | null {
    const { compression } = this.#job;
    if (!this.#codec || !compression) return null;
    const values = gatherRuns(update, this.#sent);
    const left = feedsBack(compression) ? (before ?? new Float32Array(values.length)) : null;
    const sent = compressUpdate(this.#codec, values, sender, { left, bound });
    scatterRuns(values, this.#sent, update);
    return sent;
  }

  #open(shared: SharedStart): Start {
    if (this.#start?.version === shared.version) return this.#start;
    const params = new Float32Array(shared.params).slice();
    const moduleState = new Float32Array(shared.state).slice();
    const state = this.#trainer.upload(params, moduleState);
    const tensors = new Map<string, readonly DeviceTensor[]>();
    for (const tensor of this.#trainer.tensorsOf) {
      const { name, scope, optional } = tensor;
      if (scope === 'start') tensors.set(name, state.params);
      if (scope !== 'round') continue;
      // (Where one is missing a fit says so; an evaluation needs none.)
      const given = shared.round[name];
      if (given) tensors.set(name, this.#trainer.objectiveTensors(name, new Float32Array(given)));
      else if (optional) tensors.set(name, this.#trainer.initialTensors(tensor, state));
    }
    const given = new Set(Object.keys(shared.round));
    this.#start = { version: shared.version, state, tensors, given, params, moduleState };
    return this.#start;
  }
}

/** What is known of an update when it has been written. */
interface UpdateResult {
  readonly norm: number;
  readonly personal: Float32Array | null;
  readonly written: Uint8Array | null;
  readonly left: Float32Array | null;
}

function addReports(a: EvaluateReport, b: EvaluateReport): EvaluateReport {
  return {
    examples: a.examples + b.examples,
    loss: a.loss + b.loss,
    correct: a.correct === null || b.correct === null ? null : a.correct + b.correct,
  };
}
