import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

/** The checkout: found from below, since benchmarks run a copy of this file from another folder. */
export const root = ((): string => {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package-lock.json'))) return folder;
    if (folder === dirname(folder)) throw new Error(`no package-lock.json above ${import.meta.url}`);
  }
})();

/** The built command line. */
export const builtCli: readonly string[] = [process.execPath, join(root, 'dist', 'cli', 'main.js')];

/** How a process ended. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How a process is started. */
export interface ProcOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Put in front of the command, such as `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
}

/** Lines that are kept of a process's output. */
const KEPT = 3000;
/** Lines that a failure shows of each process. */
const SHOWN = 25;

/** A child process in a group of its own, with what it printed. */
export class Proc {
  readonly name: string;
  readonly child: ChildProcess;
  /** Ends with the process; never rejects. */
  readonly ended: Promise<Exit>;
  /** What it printed on either stream, last lines only. */
  readonly lines: string[] = [];
  exit: Exit | null = null;
  /** What a test did to it, for failures. */
  readonly history: string[] = [];
  readonly #began = performance.now();
  readonly #changed: () => void;

  constructor(
    name: string,
    command: readonly string[],
    options: ProcOptions,
    changed: () => void,
    onLine?: (line: string) => void,
  ) {
    this.name = name;
    this.#changed = changed;
    const [program, ...args] = [...(options.prefix ?? []), ...command] as [string, ...string[]];
    // Not what vitest sets for itself, nor what this machine's user is logged in to.
    const { NODE_OPTIONS: _, VITEST: __, PLEXUS_NATS: ___, ...env } = process.env;
    this.child = spawn(program, args, {
      cwd: options.cwd,
      env: { ...env, NO_COLOR: '1', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.#read(this.child.stdout as NodeJS.ReadableStream, '', onLine);
    this.#read(this.child.stderr as NodeJS.ReadableStream, '! ');
    this.ended = new Promise((resolve) => {
      const end = (exit: Exit, why: string) => {
        this.exit ??= exit;
        this.history.push(`${this.#age()} ${why}`);
        resolve(this.exit);
        changed();
      };
      this.child.once('error', (error) => end({ code: null, signal: null }, `could not be started: ${error.message}`));
      this.child.once('close', (code, signal) => end({ code, signal }, `ended with ${signal ?? `exit code ${code}`}`));
    });
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error(`${this.name} was not started: ${this.history.join('; ')}`);
    return this.child.pid;
  }

  get running(): boolean {
    return this.exit === null;
  }

  /** Sends a signal to the process and what it started. */
  signal(signal: NodeJS.Signals): void {
    this.history.push(`${this.#age()} was sent ${signal}`);
    if (this.running) process.kill(-this.pid, signal);
    this.#changed();
  }

  /** Kills it like a power cut, and waits until it is gone. */
  async kill(): Promise<void> {
    if (this.running) this.signal('SIGKILL');
    await this.ended;
  }

  /** Resident memory in bytes, 0 once it has ended. */
  rss(): number {
    try {
      const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${this.pid}/status`, 'utf8'))?.[1];
      return Number(kib ?? 0) * 1024;
    } catch {
      return 0;
    }
  }

  /** CPU time that it has taken, in milliseconds (in steps of ten), 0 once it has ended. */
  cpu(): number {
    try {
      const fields = readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
      return (Number(fields[11]) + Number(fields[12])) * 10;
    } catch {
      return 0;
    }
  }

  /** Its last lines, and what was done to it. */
  describe(): string {
    const state = this.exit === null ? `running, pid ${this.child.pid}` : `ended: ${JSON.stringify(this.exit)}`;
    // A server's banner tells nothing.
    const shown = this.name.startsWith('nats-server') ? 6 : SHOWN;
    // Of steps in a row only the last is of interest.
    const isStep = (line: string | undefined) => line?.includes(' {"type":"step"');
    const kept = this.lines.filter((line, index) => !(isStep(line) && isStep(this.lines[index + 1])));
    const lines = kept.slice(-shown).map((line) => `    ${line.slice(0, 400)}`);
    return [`── ${this.name} (${state})`, ...this.history.slice(-12).map((line) => `  * ${line}`), ...lines].join('\n');
  }

  #age(): string {
    return `${((performance.now() - this.#began) / 1000).toFixed(2)} s`;
  }

  #read(stream: NodeJS.ReadableStream, mark: string, onLine?: (line: string) => void): void {
    let rest = '';
    stream.setEncoding('utf8');
    const line = (text: string) => {
      this.lines.push(`${this.#age()} ${mark}${text}`);
      if (this.lines.length > KEPT) this.lines.splice(0, KEPT / 2);
      onLine?.(text);
    };
    stream.on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop() as string;
      for (const part of parts) line(part);
      this.#changed();
    });
    stream.on('end', () => {
      if (rest !== '') line(rest);
    });
  }
}

/**
 * The processes of one test: they end with it however it ends, and a wait that runs out shows what each of them said
 * last.
 */
export class Processes {
  readonly all: Proc[] = [];
  readonly #waits = new Set<() => void>();
  #reaper: ChildProcess | null = null;

  /** Starts a process. `onLine` gets each line of its standard output. */
  start(name: string, command: readonly string[], options: ProcOptions = {}, onLine?: (line: string) => void): Proc {
    const proc = new Proc(name, command, options, () => this.#changed(), onLine);
    this.all.push(proc);
    if (proc.child.pid !== undefined) this.#reap(proc.child.pid);
    return proc;
  }

  /**
   * Waits until `check` returns something other than undefined or false. It is asked again whenever a process printed
   * something or ended, and every 50 ms (for files). What it throws fails the wait.
   * @throws Error after `deadlineMs`, with the last output of all processes
   */
  until<T>(what: string, deadlineMs: number, check: () => T | undefined | false): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const finish = (end: () => void) => {
        clearTimeout(timer);
        clearInterval(poll);
        this.#waits.delete(again);
        end();
      };
      const again = () => {
        try {
          const found = check();
          if (found !== undefined && found !== false) finish(() => resolve(found));
        } catch (error) {
          finish(() => reject(new Error(`${what}: ${(error as Error).message}\n${this.describe()}`, { cause: error })));
        }
      };
      const timer = setTimeout(
        () => finish(() => reject(new Error(`${what}: not after ${deadlineMs} ms\n${this.describe()}`))),
        deadlineMs,
      );
      const poll = setInterval(again, 50);
      this.#waits.add(again);
      again();
    });
  }

  /** Waits for a process to end by itself. */
  exitOf(proc: Proc, deadlineMs: number): Promise<Exit> {
    return this.until(`the end of ${proc.name}`, deadlineMs, () => proc.exit ?? undefined);
  }

  /** The last output of every process that runs, and of the last ones that have ended. */
  describe(): string {
    const ended = this.all.filter((proc) => !proc.running).slice(-8);
    return this.all
      .filter((proc) => proc.running || ended.includes(proc))
      .map((proc) => proc.describe())
      .join('\n');
  }

  /** Kills whatever still runs, and waits until it is gone. */
  async close(): Promise<void> {
    await Promise.all(this.all.map((proc) => proc.kill()));
    this.#reaper?.kill('SIGKILL');
    this.#reaper = null;
  }

  #changed(): void {
    for (const again of [...this.#waits]) again();
  }

  /** A shell kills the groups once this process is gone, whatever ended it: nothing is left behind on the machine. */
  #reap(pid: number): void {
    if (this.#reaper === null) {
      const script = 'groups=; while read -r g; do groups="$groups $g"; done; for g in $groups; do kill -9 -"$g"; done';
      this.#reaper = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
      this.#reaper.unref();
      const stdin = this.#reaper.stdin as Writable & { unref?(): void };
      stdin.unref?.();
      stdin.on('error', () => undefined);
    }
    this.#reaper.stdin?.write(`${pid}\n`);
  }
}

/** Processes of a group that have not ended, as `pid command`. (Dead ones that nobody has collected do not count.) */
export function livingIn(group: number): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [, command, state, own] =
          /^\d+ \((.*)\) (\S) \d+ (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
        return Number(own) === group && state !== 'Z' ? [`${pid} ${command}`] : [];
      } catch {
        // It has ended since it was listed.
        return [];
      }
    });
}
