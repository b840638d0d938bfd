import { workerData } from 'piscina';
import { ClientFitter } from './client-fitter.ts';
import type {
  ClientReport,
  EvaluateClientsTask,
  EvaluateReport,
  EvaluateTask,
  FitJob,
  FitSizes,
  FitTask,
} from './fit-task.ts';
import { type MaskTask, maskUpdates } from './privacy/mask-update.ts';
import type { ClientQuestion } from './tasks/index.ts';

// The module that piscina's threads run. A thread has one engine for as long as it lives, made by the first task.
let fitter: Promise<ClientFitter> | null = null;

const own = (): Promise<ClientFitter> => {
  fitter ??= ClientFitter.create(workerData as FitJob);
  return fitter;
};

let last: Promise<unknown> = Promise.resolve();

/** Does one task after another: the next one is here already, but the engine is for one at a time. */
function inTurn<T>(work: (fitter: ClientFitter) => T | Promise<T>): Promise<T> {
  const result = last.then(async () => work(await own()));
  last = result.catch(() => undefined);
  return result;
}

/** Trains the clients of a task. */
export function fit(task: FitTask): Promise<ClientReport[]> {
  return inTurn((fitter) => fitter.fit(task));
}

/** Measures parameters. */
export function evaluate(task: EvaluateTask): Promise<EvaluateReport> {
  return inTurn((fitter) => fitter.evaluate(task));
}

/** Measures clients' own models. */
export function evaluateClients(task: EvaluateClientsTask): Promise<EvaluateReport[]> {
  return inTurn((fitter) => fitter.evaluateClients(task));
}

/** Answers a question about one client's data. */
export function answer(question: ClientQuestion): Promise<unknown> {
  return inTurn((fitter) => fitter.answer(question));
}

/** Masks elements [from, to) of clients' updates. */
export function mask({ jobs, from, to }: MaskTask): void {
  maskUpdates(jobs, from, to);
}

/** Makes the thread ready, and says how long the vectors are. */
export function prepare(): Promise<FitSizes> {
  return inTurn((fitter) => fitter.sizes);
}
