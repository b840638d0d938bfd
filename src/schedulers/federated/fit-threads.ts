import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Piscina } from 'piscina';
import type { FitJob, FitSizes } from './fit-task.ts';

/** Tasks that a thread has at a time: the one that it works on, and the next, so that it does not wait for a message in between. */
export const TASKS_AT_A_THREAD = 2;

/**
 * Starts threads that train clients (`fit-thread.ts`) and waits until each is ready.
 * @param deadlineMs that making a thread ready (reading, tracing, compiling) may take
 * @throws what making the model or the engine throws
 */
export async function startFitThreads(
  job: FitJob,
  threads: number,
  deadlineMs: number,
): Promise<{ readonly pool: Piscina; readonly sizes: FitSizes }> {
  // Loaded when it is used: other commands start without it.
  const { Piscina } = await import('piscina');
  const pool = new Piscina({
    filename: fileURLToPath(threadUrl()),
    workerData: job,
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: TASKS_AT_A_THREAD,
    // Short-lived objects are few and small here; the default lets each thread hold 48 MB of them.
    resourceLimits: { maxYoungGenerationSizeMb: 8 },
    idleTimeout: Number.POSITIVE_INFINITY,
  });
  try {
    const signal = AbortSignal.timeout(deadlineMs);
    // As many as they take at a time, so that each has one.
    const ready = Array.from({ length: threads * TASKS_AT_A_THREAD }, () =>
      pool.run(undefined, { name: 'prepare', signal }),
    );
    const [sizes] = (await Promise.all(ready)) as FitSizes[];
    return { pool, sizes: sizes as FitSizes };
  } catch (error) {
    await pool.destroy();
    throw error;
  }
}

/** The module that the threads run: the built one under Node, which cannot run TypeScript. */
function threadUrl(): URL {
  const here = import.meta.url;
  if (!here.endsWith('.ts')) return new URL('./fit-thread.js', here);
  if ('Deno' in globalThis) return new URL('./fit-thread.ts', here);
  const built = new URL('../../../dist/schedulers/federated/fit-thread.js', here);
  if (!existsSync(built)) throw new Error(`${fileURLToPath(built)} is missing: run \`npm run build\` first`);
  return built;
}
