import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import type { Writable } from 'node:stream';

/** Options of a NATS server to start. */
export interface NatsServerOptions {
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Default: any free port. */
  readonly port?: number;
  /** Folder for JetStream's files; without it there is no JetStream. */
  readonly storeDir?: string;
  /** A configuration file, for what has no option here (limits, users, TLS). */
  readonly configFile?: string;
  /** In a process group of its own, where no Ctrl-C of a terminal reaches it. It ends with this process all the same. */
  readonly detached?: boolean;
  /** How long it may take to listen, in milliseconds. Default 20 s. */
  readonly deadlineMs?: number;
}

/** A NATS server of this process's own. */
export interface NatsServer {
  /** `nats://host:port` */
  readonly url: string;
  readonly port: number;
  readonly process: ChildProcess;
  /** Ends it with SIGTERM (`kill`: with SIGKILL) and waits until it is gone. */
  stop(how?: 'term' | 'kill'): Promise<void>;
}

/** There is no nats-server, or it does not start. */
export class NatsServerError extends Error {
  override readonly name = 'NatsServerError';
}

/** Path of the nats-server program: on the PATH, or where Debian puts it (which is not on every user's PATH). */
export function findNatsServer(): string | null {
  const program = process.platform === 'win32' ? 'nats-server.exe' : 'nats-server';
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/bin', '/usr/local/sbin'];
  for (const folder of folders) {
    const path = join(folder, program);
    if (folder && existsSync(path)) return path;
  }
  return null;
}

/**
 * Starts a nats-server that listens on a free port, and waits until it does. It ends with this process.
 * @throws NatsServerError saying how to install it where there is none, or with its own words where it fails
 */
export async function startNatsServer(options: NatsServerOptions = {}): Promise<NatsServer> {
  const program = findNatsServer();
  if (!program)
    throw new NatsServerError(
      'nats-server was not found on the PATH. Install it (Debian, Ubuntu: apt-get install nats-server; macOS: brew install nats-server; others: https://github.com/nats-io/nats-server/releases) or give the URL of one that runs',
    );
  const { host = '127.0.0.1', deadlineMs = 20_000 } = options;
  // The program can choose a free port itself, but a restart has to find the same one again.
  const port = options.port ?? (await freePort(host));
  const args = ['-a', host, '-p', String(port)];
  if (options.storeDir !== undefined) args.push('-js', '-sd', options.storeDir);
  if (options.configFile !== undefined) args.push('-c', options.configFile);
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], detached: options.detached === true });
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  endWithThisProcess(child, gone);
  await listening(child, `${program} ${args.join(' ')}`, deadlineMs);
  return {
    url: `nats://${host.includes(':') ? `[${host}]` : host}:${port}`,
    port,
    process: child,
    stop: async (how = 'term') => {
      // Somebody waits for its end now.
      child.ref();
      child.kill(how === 'kill' ? 'SIGKILL' : 'SIGTERM');
      await gone;
    },
  };
}

/** Version of the installed nats-server, or null if there is none. */
export function natsServerVersion(): string | null {
  const program = findNatsServer();
  if (!program) return null;
  const { stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return /v(\d+\.\d+\.\d+)/.exec(stdout ?? '')?.[1] ?? null;
}

/** Kills a child when this process ends, in whatever way: a shell waits for a pipe that only this process holds open. */
function endWithThisProcess(child: ChildProcess, gone: Promise<void>): void {
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const watch =
    child.pid === undefined || process.platform === 'win32'
      ? null
      : spawn('/bin/sh', ['-c', `cat >/dev/null; kill -9 ${child.pid}`], {
          stdio: ['pipe', 'ignore', 'ignore'],
          detached: true,
        });
  watch?.unref();
  (watch?.stdin as (Writable & { unref?(): void }) | undefined)?.unref?.();
  void gone.then(() => {
    process.off('exit', kill);
    watch?.kill('SIGKILL');
  });
}

/** Waits for the server to say that it is ready; its log goes to standard error, of which the last lines are kept. */
function listening(child: ChildProcess, command: string, deadlineMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let log = '';
    const failed = (what: string) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new NatsServerError(`${command} ${what}\n${log.trimEnd().split('\n').slice(-5).join('\n')}`));
    };
    const timer = setTimeout(() => failed(`did not listen within ${deadlineMs} ms; it said:`), deadlineMs);
    child.once('error', (error) => failed(`could not be started: ${error.message}`));
    const ended = (code: number | null, signal: NodeJS.Signals | null) =>
      failed(`ended with ${signal ?? `exit code ${code}`}; it said:`);
    child.once('exit', ended);
    child.stderr?.setEncoding('utf8');
    const heard = (text: string) => {
      log = (log + text).slice(-8192);
      if (!/Server is ready/.test(log)) return;
      clearTimeout(timer);
      child.off('exit', ended);
      // What it says later is let go, and must be: it would wait for a reader. Whoever else watches its end goes on doing so.
      child.stderr?.off('data', heard).resume();
      resolve();
    };
    child.stderr?.on('data', heard);
    child.unref();
  });
}

function freePort(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
