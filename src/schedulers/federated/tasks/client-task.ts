import type { Dataset } from '../../../data/index.ts';
import type { Engine } from '../../../engine/index.ts';
import type { Model } from '../../../modules/index.ts';
import type { LocalState, LocalTrainer } from '../../local/index.ts';
import type { FitJob, SharedStart } from '../fit-task.ts';

/** Something that one client is asked about its data, besides training: plain data, so that it can go to a thread. */
export interface ClientQuestion {
  /** Name of a registered task, and its settings. */
  readonly task: string;
  readonly config: unknown;
  readonly start: SharedStart;
  readonly client: number;
  readonly round: number;
  /** Examples of the training split, in the client's own order. */
  readonly examples: Int32Array;
}

/** What a task has on the thread that it runs on. */
export interface ClientTaskContext {
  readonly job: FitJob;
  readonly engine: Engine;
  readonly model: Model;
  readonly dataset: Dataset;
  /** Tells the layouts of vectors, and puts them where the engine computes. */
  readonly trainer: LocalTrainer;
  /** Parameters and module state that a question is about, on the engine. Valid until another start is opened. */
  open(start: SharedStart): LocalState;
  /** Makes something the first time it is asked for (an executable, say), and keeps it for as long as the thread lives. */
  once<T>(key: string, make: () => Promise<T>): Promise<T>;
}

/** A question that servers can put to clients. Its answer is plain data, and a function of what was asked alone. */
export interface ClientTask {
  readonly name: string;
  run(question: ClientQuestion, context: ClientTaskContext): Promise<unknown>;
}

const registry = new Map<string, ClientTask>();

/** Makes a task known by its name. */
export function registerClientTask(task: ClientTask): void {
  registry.set(task.name, task);
}

/** Names of the registered tasks. */
export function clientTaskNames(): string[] {
  return [...registry.keys()];
}

/** A registered task. @throws Error listing the known names if there is none of that name */
export function clientTaskNamed(name: string): ClientTask {
  const task = registry.get(name);
  if (!task) throw new Error(`there is no client task "${name}"; known: ${clientTaskNames().join(', ')}`);
  return task;
}
