import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runtime } from '../../scripts/runtimes.mjs';
import { cliPath, runCli } from '../cli/run-cli.ts';
import { tinyProject } from '../cli/tiny-run.ts';

const sourceCli = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Trains the tiny config with a program that runs the command line, and returns the hashes of its summary. */
async function hashes(program: readonly string[]): Promise<{ losses: string; weights: string }> {
  const folder = tinyProject();
  folders.push(folder);
  const result = await runCli(['train', 'config.yaml'], { cwd: folder, program, timeoutMs: 90_000 });
  if (result.code !== 0) throw new Error(`${program[0]} ended with code ${result.code}:\n${result.stderr}`);
  const runs = join(folder, 'runs');
  const summary = JSON.parse(readFileSync(join(runs, readdirSync(runs)[0] as string, 'summary.json'), 'utf8'));
  return { losses: summary.losses_sha256, weights: summary.weights_sha256 };
}

/** The runtimes that are tried, and how each runs the command line: Deno the sources, Node what the build made. */
const runtimes: readonly (readonly [name: string, program: (path: string) => readonly string[]])[] = [
  ['node22', (node) => [node, cliPath]],
  ['node24', (node) => [node, cliPath]],
  ['deno', (deno) => [deno, 'run', '-A', sourceCli]],
];

// Elsewhere than in CI a machine without the registry, or of another kind, still passes the rest of the suite.
const available = new Map<string, string | Error>();
for (const [name] of runtimes) {
  try {
    available.set(name, runtime(name));
  } catch (error) {
    if (process.env.CI) throw error;
    available.set(name, error as Error);
  }
}

describe('other runtimes train to the same bits', () => {
  let here: Awaited<ReturnType<typeof hashes>>;
  beforeAll(async () => {
    here = await hashes([process.execPath, cliPath]);
  }, 120_000);

  for (const [name, program] of runtimes) {
    const path = available.get(name);
    it.skipIf(typeof path !== 'string')(
      name,
      async () => {
        expect(await hashes(program(path as string))).toEqual(here);
      },
      120_000,
    );
  }
});
