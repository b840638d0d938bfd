import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';

/**
 * The module that worker threads run. Node 20 cannot run TypeScript, so from the sources the built file is used; Deno
 * runs the sources as they are.
 * @throws Error if it has not been built
 */
export function workerEntryUrl(): URL {
  const here = import.meta.url;
  if (!here.endsWith('.ts')) return new URL('./thread.js', here);
  if ('Deno' in globalThis) return new URL('./thread.ts', here);
  const built = new URL('../../dist/worker/thread.js', here);
  if (!existsSync(built)) throw new Error(`${fileURLToPath(built)} is missing: run \`npm run build\` first`);
  return built;
}

/**
 * To be called in the main thread before worker threads are started: settings of V8 for threads whose memory is tensors.
 * ONNX Runtime's binding wraps every output of every run in a new ArrayBuffer, also those that were written in place, and
 * V8 takes their bytes for growth. Measured on the quickstart: 81 full collections in 30 steps, 1 when old garbage is not
 * looked for below 256 MB. And where workers keep all cores busy, a scavenge that waits for helper threads takes twice as
 * long as one that does the little there is by itself.
 */
export function prepareForWorkerThreads(): void {
  setFlagsFromString('--initial-old-space-size=256');
  setFlagsFromString('--no-parallel-scavenge');
}
