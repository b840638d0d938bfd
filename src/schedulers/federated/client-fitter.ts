import type { SplitName } from '../../data/index.ts';
import type { LocalState, Place, ShapedTensor } from '../local/index.ts';
import { attackedSplit } from './attack.ts';
import { LEFT_OUT } from './compression.ts';
import type { TaskClients } from './continual/near-data.ts';
import { TASK_VECTORS } from './fit-blocks.ts';
import { type PassesResult, runPasses } from './fit-passes.ts';
import { type FitStart, FitStarts, PERSONAL, type PersonalPlaces } from './fit-start.ts';
import type {
  ClientFit,
  ClientReport,
  EvaluateClientsTask,
  EvaluateReport,
  EvaluateTask,
  FitJob,
  FitSizes,
  FitTask,
} from './fit-task.ts';
import { type FitterParts, fitterParts } from './fitter-parts.ts';
import { type ClientQuestion, type ClientTaskContext, clientTaskNamed } from './tasks/index.ts';
import { RunningTreeSum } from './tree-sum.ts';
import { UpdateArena } from './update-arena.ts';
import { UpdateWriter } from './update-writer.ts';

/**
 * Trains clients one after another on one engine. All clients share the compiled steps and the uploaded start, so that a
 * small client costs little more than its arithmetic.
 */
export class ClientFitter {
  readonly #parts: FitterParts;
  readonly #personal: PersonalPlaces;
  readonly #starts: FitStarts;
  readonly #updates: UpdateWriter;
  readonly #tasks: ClientTaskContext;
  /** Where updates are made and added up. */
  readonly #arena: UpdateArena;

  /** Where trained clients are counted, together with other threads. */
  readonly #trained: Int32Array | null;

  private constructor(parts: FitterParts) {
    this.#parts = parts;
    this.#trained = parts.job.trained ? new Int32Array(parts.job.trained) : null;
    const { trainer, objective } = parts;
    const made = new Map<string, Promise<unknown>>();
    this.#tasks = {
      ...parts,
      open: (start) => this.#starts.open(start).state,
      once: <T>(key: string, make: () => Promise<T>) => {
        const known = made.get(key) ?? make();
        made.set(key, known);
        return known as Promise<T>;
      },
    };
    const stays = ({ path, shape }: Place) => objective.personal?.({ path, shape, decay: false }) ?? false;
    this.#personal = [trainer.layout.places.filter(stays), trainer.stateLayout.places.filter(stays)];
    this.#arena = new UpdateArena(trainer.layout.size + trainer.stateLayout.size, TASK_VECTORS);
    const given = { ...parts, personal: this.#personal, arena: this.#arena };
    this.#starts = new FitStarts(given);
    this.#updates = new UpdateWriter(given);
  }

  /** Makes all that training needs, on an engine of its own. @throws what making the model, the data or the engine throws */
  static async create(job: FitJob): Promise<ClientFitter> {
    return new ClientFitter(await fitterParts(job));
  }

  /** How long the vectors are. */
  get sizes(): FitSizes {
    const { layout, stateLayout, tensorsOf } = this.#parts.trainer;
    const stays = this.#personal.flat().reduce((total, { size }) => total + size, 0);
    const common = layout.size + stateLayout.size - stays;
    const count = (of: (tensor: ShapedTensor) => boolean) =>
      tensorsOf.filter(of).reduce((total, tensor) => total + this.#sizeOf(tensor), 0);
    const readings = (this.#parts.objective.readings ?? []).map(({ what }) =>
      what === 'loss' ? 1 : (this.#parts.job.shared?.length ?? 0) * (this.#parts.classes ?? 0),
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
    const start = this.#starts.open(task.start);
    const { size } = this.#arena;
    const out = new Float32Array(task.into);
    const sum = new RunningTreeSum(task.clients.length, this.#arena);
    const reports: ClientReport[] = [];
    for (const [i, client] of task.clients.entries()) {
      const each = task.mode === 'each';
      const update = each ? out.subarray(i * size, (i + 1) * size) : this.#arena.take();
      const { encoded, ...report } = await this.#one(start, client, update, each ? 1 : client.weight);
      if (this.#trained) Atomics.add(this.#trained, 0, 1);
      reports.push(task.encoded && encoded ? { ...report, encoded } : report);
      if (each) continue;
      sum.add(i + 1, report.problem === null ? update : null);
      if (report.problem !== null) this.#arena.give(update);
    }
    if (task.mode === 'sum') {
      const total = sum.total();
      if (total) {
        out.set(total);
        this.#arena.give(total);
      } else out.fill(0);
    }
    return reports;
  }

  /** Measures a start; examples that belong to nobody are seen with the eyes of all groups of clients in turn. */
  async evaluate({ start, split, examples, client, outputs }: EvaluateTask): Promise<EvaluateReport> {
    const { state } = this.#starts.open(start);
    const source = this.#tasks.dataset.split(split);
    if (client !== undefined)
      return this.#parts.evaluator.evaluate(state, this.#parts.view.of(source, client), examples, outputs);
    let total: EvaluateReport | null = null;
    for (const alike of this.#parts.view.inTurn(examples)) {
      const seen = this.#parts.view.ofGroup(source, alike.group);
      const part = await this.#parts.evaluator.evaluate(state, seen, alike.examples, outputs);
      total = total ? addReports(total, part) : part;
    }
    return total ?? { examples: 0, loss: 0, correct: null };
  }

  /** Measures each client's own model on its own examples. */
  async evaluateClients({ start: shared, split, clients }: EvaluateClientsTask): Promise<EvaluateReport[]> {
    const start = this.#starts.open(shared);
    const reports: EvaluateReport[] = [];
    const source = this.#tasks.dataset.split(split);
    for (const { client, examples, kept } of clients) {
      const own = await this.#starts.ownModel(start, kept);
      reports.push(await this.#parts.evaluator.evaluate(own, this.#parts.view.of(source, client), examples));
    }
    return reports;
  }

  /** Answers a question about one client's data; nothing is trained. */
  answer(question: ClientQuestion): Promise<unknown> {
    const { dataset } = this.#tasks;
    // It is about examples as the client sees them.
    const seen = { ...dataset, split: (name: SplitName) => this.#parts.view.of(dataset.split(name), question.client) };
    return clientTaskNamed(question.task).run(question, { ...this.#tasks, dataset: seen });
  }

  async dispose(): Promise<void> {
    await this.#parts.engine.dispose();
  }

  async #one(start: FitStart, asked: ClientFit, update: Float32Array, scale: number): Promise<ClientReport> {
    const began = performance.now();
    if (asked.tasks?.over) return this.#taskOver(start, asked, update);
    const settled = asked.tasks ? await this.#tasked.begin(asked, start, this.#parts.evaluator) : null;
    const client = settled ? { ...asked, kept: settled.kept } : asked;
    const { seed, batch, shared = null } = this.#parts.job;
    const base = { client: client.client, examples: client.examples.length, weight: client.weight };
    const failed = (problem: string, steps = 0): ClientReport => {
      update.fill(0);
      return { ...base, steps, loss: Number.NaN, norm: 0, kept: {}, ms: performance.now() - began, problem };
    };
    if (client.examples.length === 0) return failed('it has no examples');
    const own = this.#starts.personalised(start, client.kept[PERSONAL]);
    const first = settled ? this.#tasked.slots.with(own, settled.kept) : own;
    const result = await runPasses({
      trainer: this.#parts.trainer,
      objective: this.#parts.objective,
      client,
      seed,
      batch,
      own: attackedSplit(this.#parts.view.of(this.#parts.split, client.client), client.attack, this.#parts.classes),
      all: this.#parts.split,
      shared,
      settled,
      first,
      tensors: this.#starts.clientTensors(start, client.kept, first, client.examples),
      given: (name) => start.given.has(name),
    });
    const { losses, state } = result;
    const loss = losses.reduce((total, value) => total + value, 0) / losses.length;
    const { norm, personal, written, left } = await this.#updates.write(start, state, update, scale, client);
    const diverged = (problem: string) => failed(`its training diverged: ${problem}`, losses.length);
    if (!Number.isFinite(loss)) return diverged(`the loss is ${loss}`);
    if (!Number.isFinite(norm)) return failed('its update is not finite', losses.length);
    const broken = Object.entries(result.kept).find(([, values]) => !values.every((value) => Number.isFinite(value)));
    if (broken || !result.finite) return diverged(`${broken ? `its own "${broken[0]}"` : 'a loss'} is not finite`);
    const lr = this.#parts.optimizer.lrAt(client.firstStep);
    const after = await this.#parts.trainer.after(first, state, result.tensors, losses.length, lr);
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
  async #taskOver(start: FitStart, client: ClientFit, update: Float32Array): Promise<ClientReport> {
    const began = performance.now();
    update.fill(0);
    const kept = await this.#tasked.end(client, start, this.#parts.evaluator);
    const broken = Object.keys(kept).find((name) => !kept[name]?.every((value) => Number.isFinite(value)));
    const problem = broken ? `its own "${broken}" is not finite` : null;
    const said = { client: client.client, examples: 0, steps: 0, weight: client.weight, loss: 0, norm: 0 };
    return { ...said, kept: problem === null ? kept : {}, ms: performance.now() - began, problem };
  }

  get #tasked(): TaskClients {
    if (!this.#parts.continual)
      throw new Error('a client was asked to learn a task, but there are none (FitJob.continual)');
    return this.#parts.continual;
  }

  /** What the objective's readings find. */
  async #read(
    first: LocalState,
    { state }: PassesResult,
    { client, examples }: ClientFit,
  ): Promise<Readonly<Record<string, Float32Array>>> {
    const sent: Record<string, Float32Array> = {};
    for (const { name, at, what } of this.#parts.objective.readings ?? []) {
      const looked = at === 'start' ? first : state;
      if (what === 'loss') {
        const { loss } = await this.#parts.evaluator.evaluate(
          looked,
          this.#parts.view.of(this.#parts.split, client),
          examples,
        );
        sent[name] = Float32Array.of(loss / examples.length);
      } else
        sent[name] = await this.#parts.evaluator.outputs(looked, 'train', this.#parts.job.shared ?? new Int32Array(0));
    }
    return sent;
  }

  #sizeOf({ shape }: ShapedTensor): number {
    return shape === 'param' ? this.#parts.trainer.layout.size : shape.reduce((product, dim) => product * dim, 1);
  }
}

function addReports(a: EvaluateReport, b: EvaluateReport): EvaluateReport {
  return {
    examples: a.examples + b.examples,
    loss: a.loss + b.loss,
    correct: a.correct === null || b.correct === null ? null : a.correct + b.correct,
  };
}
