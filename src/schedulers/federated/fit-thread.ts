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
import { type MaskJob, maskUpdate } from './privacy/mask-update.ts';
import type { ClientQuestion } from './tasks/index.ts';

// The module that piscina's threads run. A thread has one engine for as long as it lives, made by the first task.
let fitter: Promise<ClientFitter> | null = null;

const own = (): Promise<ClientFitter> => {
  fitter ??= ClientFitter.create(workerData as FitJob);
  return fitter;
};

/** Trains the clients of a task. */
export async function fit(task: FitTask): Promise<ClientReport[]> {
  return (await own()).fit(task);
}

/** Measures parameters. */
export async function evaluate(task: EvaluateTask): Promise<EvaluateReport> {
  return (await own()).evaluate(task);
}

/** Measures clients' own models. */
export async function evaluateClients(task: EvaluateClientsTask): Promise<EvaluateReport[]> {
  return (await own()).evaluateClients(task);
}

/** Answers a question about one client's data. */
export async function answer(question: ClientQuestion): Promise<unknown> {
  return (await own()).answer(question);
}

/** Masks a client's update. */
export function mask(job: MaskJob): void {
  maskUpdate(job);
}

/** Makes the thread ready, and says how long the vectors are. */
export async function prepare(): Promise<FitSizes> {
  return (await own()).sizes;
}
