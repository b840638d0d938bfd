import { setFlagsFromString } from 'node:v8';

/** Bytes of bytecode that a function executes before V8 thinks of optimizing it. V8's own default is 66 KB. */
const BUDGET = 4_000_000;

let told = false;

/**
 * Lets V8 optimize only what is really hot from now on, in all threads of the process. A rank's step is hundreds of short
 * functions around the engine's runs, for which optimized code wins nothing measurable; but optimizing them all, in each
 * thread, took 20 to 30 ms of a step of 330 for the first hundred steps, of cores that are all busy. A loop that matters
 * still gets there within milliseconds. To be called when a rank is built, not before: V8 checks cached code of modules
 * against its flags. Does nothing under other runtimes.
 */
export function optimizeOnlyHotCode(): void {
  if (told || 'Deno' in globalThis || 'Bun' in globalThis) return;
  told = true;
  setFlagsFromString(`--interrupt-budget=${BUDGET}`);
}
