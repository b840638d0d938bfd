import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, expect } from 'vitest';
import { cliPath } from '../cli/run-cli.ts';
import { tinyConfig, tinyProject } from '../cli/tiny-run.ts';

/** What a command did. */
export interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

/** How to run a command. */
export interface Options {
  readonly cwd: string;
  /** Called with each line of standard output; `kill` sends a signal to the process. */
  readonly onLine?: (line: string, kill: (signal: NodeJS.Signals) => void) => void;
}

/**
 * Runs the built command line in a process group of its own until it ends by itself, and checks that nothing of the
 * group is left when it has.
 */
export function plexus(args: readonly string[], { cwd, onLine }: Options): Promise<Outcome> {
  // Not what vitest sets for itself.
  const { NODE_OPTIONS: _, VITEST: __, ...env } = process.env;
  const child = spawn(process.execPath, [cliPath, ...args], {
    cwd,
    env: { ...env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const began = performance.now();
  let stdout = '';
  let stderr = '';
  createInterface(child.stdout).on('line', (line) => {
    stdout += `${line}\n`;
    onLine?.(line, (signal) => child.kill(signal));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    const group = -(child.pid as number);
    const timer = setTimeout(() => {
      process.kill(group, 'SIGKILL');
      reject(new Error(`'plexus ${args.join(' ')}' had not ended by itself; it printed:\n${stdout}\n${stderr}`));
    }, 50_000);
    child.on('error', reject);
    child.on('close', async (code, signal) => {
      clearTimeout(timer);
      const seconds = (performance.now() - began) / 1000;
      // A helper process (the compiler of module files) may need a moment to notice that its parent is gone.
      for (let tries = 0; tries < 30 && livingIn(-group).length > 0; tries++) await delay(100);
      const left = livingIn(-group);
      if (left.length > 0) reject(new Error(`'plexus ${args.join(' ')}' left processes behind: ${left.join(', ')}`));
      else resolve({ code, signal, stdout, stderr, seconds });
    });
  });
}

/** Commands of the processes of a group that have not ended, as Linux lists them. */
function livingIn(group: number): string[] {
  if (!existsSync('/proc/self/stat')) return [];
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [, command, state, , ownGroup] =
          /^\d+ \((.*)\) (\S) (\d+) (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
        return Number(ownGroup) === group && state !== 'Z' ? [command as string] : [];
      } catch {
        // It has ended since it was listed.
        return [];
      }
    });
}

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A folder with a corpus, `config.yaml` that trains on it in a second, and other files. Removed after the tests. */
export function project(files: Readonly<Record<string, string | Buffer>> = {}): string {
  const folder = tinyProject(tinyConfig);
  folders.push(folder);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return folder;
}

/** `--set` flags. */
export function set(values: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(values).flatMap(([key, value]) => ['--set', `${key}=${JSON.stringify(value)}`]);
}

/** Folder of the only run of a project. */
export function runOf(folder: string): string {
  const [run = 'none', ...others] = readdirSync(join(folder, 'runs'));
  expect(others).toEqual([]);
  return join(folder, 'runs', run);
}

/** summary.json of the only run. */
export function summaryOf(folder: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(runOf(folder), 'summary.json'), 'utf8')) as Record<string, unknown>;
}

/** Names of the checkpoints of the only run, and of anything that should not be among them. */
export function checkpointsOf(folder: string): string[] {
  return readdirSync(join(runOf(folder), 'checkpoints')).sort();
}

/** The number of steps done that an event of `--json` reports, or null. */
export function stepOf(line: string): number | null {
  const event = JSON.parse(line) as { type: string; step?: number };
  return event.type === 'step' ? (event.step ?? null) : null;
}

/** Refusals and failures are one block on standard error: no stack of ours, no second cause, nothing of Node's. */
export function expectOneBlock({ stderr }: Outcome): void {
  expect(stderr.match(/^✗/gm)).toHaveLength(1);
  expect(stderr).not.toMatch(/unhandled|Warning:|node:internal|at .*\/(src|dist)\/(cli|coordinator|worker)\//i);
  expect(stderr).not.toMatch(/\[object Object\]/);
}
