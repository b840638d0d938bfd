import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

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
