import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Piscina } from 'piscina';
import type { FitJob, FitSizes } from './fit-task.ts';

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
    concurrentTasksPerWorker: 1,
    // Short-lived objects are few and small here; the default lets each thread hold 48 MB of them.
    resourceLimits: { maxYoungGenerationSizeMb: 8 },
    idleTimeout: Number.POSITIVE_INFINITY,
  });
  try {
    const signal = AbortSignal.timeout(deadlineMs);
    const ready = Array.from({ length: threads }, () => pool.run(undefined, { name: 'prepare', signal }));
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
