import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/**
 * What a program of this folder prints as JSON, run by the Python in PLEXUS_PYTHON or by `python3`; a text that says why not, where
 * it does not run.
 */
export function pytorch<Result>(program: string, args: readonly (string | number)[]): Result | string {
  const python = process.env.PLEXUS_PYTHON ?? 'python3';
  // Benchmarks run from dist/bench/engine/.
  const script = fileURLToPath(new URL(`../../../bench/engine/${program}`, import.meta.url));
  const { status, stdout, stderr, error } = spawnSync(python, [script, ...args.map(String)], { encoding: 'utf8' });
  if (status !== 0)
    return `${python} did not run PyTorch (${(error?.message ?? stderr).trim().split('\n').at(-1)}); set PLEXUS_PYTHON to one that has it`;
  return JSON.parse(stdout) as Result;
}
