import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The built command line, as `npx plexus` runs it. */
export const cliPath = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** What a command did. */
export interface CliResult {
  /** Exit code, or null if a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Options of `runCli`. */
export interface CliOptions {
  readonly cwd?: string;
  /** Called with everything on standard error so far, whenever there is more. */
  readonly onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
  /** Program and arguments that run the command line, instead of this Node on dist/. */
  readonly program?: readonly string[];
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Called with everything on standard output so far, whenever there is more. */
  readonly onStdout?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
}

/**
 * Runs a command as a child process until it ends by itself. A process that is kept alive by an open handle runs into
 * the time limit and fails the test. Deprecations and unhandled rejections end up on standard error.
 */
export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const [program = process.execPath, ...before] = options.program ?? [process.execPath, cliPath];
  // Not what vitest sets for itself.
  // Nor a server of whoever runs the tests.
  const { NODE_OPTIONS: _, VITEST: __, PLEXUS_NATS: ___, PLEXUS_JOB: ____, ...env } = process.env;
  const child = spawn(program, [...before, ...args], {
    cwd: options.cwd,
    env: { ...env, NO_COLOR: '1', XDG_STATE_HOME: '/nonexistent', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    // So that what does not end by itself can be ended with all that it has started.
    detached: true,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    options.onStdout?.(stdout, (signal) => child.kill(signal));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    options.onStderr?.(stderr, (signal) => child.kill(signal));
  });
  const limit = options.timeoutMs ?? 45_000;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      process.kill(-(child.pid as number), 'SIGKILL');
      reject(
        new Error(`'plexus ${args.join(' ')}' had not ended after ${limit} ms; it printed:\n${stdout}\n${stderr}`),
      );
    }, limit);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, stdout, stderr });
    });
  });
}
