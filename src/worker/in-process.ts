import { createLoopbackTransports, treeSum } from '../comm/index.ts';
import { type HostTensor, pathsInOrder, sha256Of } from '../tensor/index.ts';
import type { StepReport, WorkerJob } from './protocol.ts';
import { createRank, type Rank, type RankOverrides } from './rank.ts';

/** What a run of several ranks in one thread gave. */
export interface InProcessResult {
  /** Reports by step, then rank. */
  readonly reports: readonly (readonly StepReport[])[];
  /** Losses of the steps: the canonical tree's sum over microbatches, divided by their number, in float32. */
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  /** All parameters of the model, by path. */
  readonly parameters: Readonly<Record<string, HostTensor>>;
  /** SHA-256 of all parameters in path order, little-endian float32. */
  readonly weightsSha256: string;
}

/** How to run ranks in one thread. */
export interface InProcessOptions {
  /** Shared by all ranks; share an engine over runs to compile once. */
  readonly overrides?: RankOverrides;
  /** Called with the live ranks after the last step, before they are disposed: to evaluate, or to write a checkpoint. */
  readonly finally?: (ranks: readonly Rank[]) => Promise<void>;
}

/** Creates the ranks of a job in this thread, connected by loopback transports. `dispose` ends them. */
export async function createRanks(
  jobs: readonly WorkerJob[],
  overrides: RankOverrides = {},
): Promise<{ readonly ranks: readonly Rank[]; dispose(): Promise<void> }> {
  const transports = createLoopbackTransports(jobs.length, { deadlineMs: jobs[0]?.deadlineMs ?? 60_000 });
  const ranks: Rank[] = [];
  const dispose = async () => {
    await Promise.all(transports.map((transport) => transport.close()));
    await Promise.all(ranks.map((rank) => rank.dispose()));
  };
  try {
    for (const [i, job] of jobs.entries()) {
      const transport = transports[i];
      if (transport) ranks.push(await createRank(job, transport, overrides));
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return { ranks, dispose };
}

/**
 * Runs the ranks of a job side by side in this thread for some steps: for tests of parity, and wherever threads are not
 * worth their start. If one rank fails the others are cut off, and its error is thrown.
 */
export async function runInProcess(
  jobs: readonly WorkerJob[],
  steps: number,
  options: InProcessOptions = {},
): Promise<InProcessResult> {
  const { ranks, dispose } = await createRanks(jobs, options.overrides);
  try {
    const reports: StepReport[][] = [];
    const first = ranks[0]?.ready.step ?? 0;
    for (let step = first; step < first + steps; step++)
      reports.push(
        await allOrFirstFailure(
          ranks.map((rank) => rank.step(step)),
          dispose,
        ),
      );
    const parameters: Record<string, HostTensor> = {};
    for (const rank of ranks) Object.assign(parameters, await rank.parameters());
    await options.finally?.(ranks);
    return {
      reports,
      losses: reports.map((step) => meanOverMicrobatches(step, 'loss', jobs[0]?.train.microbatches ?? 1)),
      gradNorms: reports.map((step) => step[0]?.gradNorm ?? Number.NaN),
      parameters: Object.fromEntries(
        pathsInOrder(Object.keys(parameters)).map((path) => [path, parameters[path] as HostTensor]),
      ),
      weightsSha256: sha256Of(parameters),
    };
  } finally {
    await dispose();
  }
}

/** Waits for all; when one fails, `stop` ends the waits of the others, and the first failure is thrown. */
async function allOrFirstFailure<T>(promises: readonly Promise<T>[], stop: () => Promise<void>): Promise<T[]> {
  try {
    return await Promise.all(promises);
  } catch (error) {
    await stop();
    await Promise.allSettled(promises);
    throw error;
  }
}

/** A scalar metric's mean over the global microbatches, as the ranks reported its leaves. */
export function meanOverMicrobatches(reports: readonly StepReport[], metric: string, microbatches: number): number {
  const leaves = new Map(reports.flatMap((report) => report.metrics[metric] ?? []));
  if (leaves.size !== microbatches)
    throw new Error(`metric "${metric}" was reported for ${leaves.size} of ${microbatches} microbatches`);
  const values = Array.from({ length: microbatches }, (_, i) => Number(leaves.get(i)));
  return Math.fround(treeSum(values) / microbatches);
}
