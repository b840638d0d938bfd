// The near end of each way to move bytes, and the processes at the far ends.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** This benchmark, to be started again as the far end. (It is joined into one file.) */
export const SELF = fileURLToPath(import.meta.url);

/** What the NATS rows send at a time, plain client and transport alike, and how much of it may be unconfirmed. */
export const CHUNK = 2 ** 20;
export const WINDOW = 8 * 2 ** 20;

/** One end of a way to move bytes. */
export interface Near {
  /** A message there, and one of the same size back. */
  echo(bytes: number): Promise<void>;
  /** `count` messages there, and a short one back when the last is complete in the receiver's memory. */
  sink(bytes: number, count: number): Promise<void>;
  close(): Promise<void>;
  /** Memory is handed over, not moved: there is no rate of bytes. */
  readonly handsOver?: boolean;
  /** The process at the far end, if it is one of its own. */
  readonly farPid?: number | undefined;
}

export function socketPath(rank: number): string {
  return join(tmpdir(), `plexus-bench-${process.pid}-${rank}.sock`);
}

/** Starts the far end in a process of its own and waits for its first line. */
export async function far(kind: string, argument: string): Promise<{ child: ChildProcess; line: string }> {
  const child = spawn(process.execPath, [...process.execArgv, SELF, 'far', kind, argument], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let line = '';
  for await (const part of child.stdout) {
    line += String(part);
    if (line.includes('\n')) break;
  }
  return { child, line };
}

/** Waits for the far end when the near one is closed; one that does not go is ended, and said to be a mistake. */
export function andThenEnd(near: Near, child: ChildProcess): Near {
  return {
    ...near,
    farPid: child.pid,
    close: async () => {
      const ended = once(child, 'exit');
      await near.close();
      const timer = setTimeout(() => {
        console.error('a far end did not go by itself');
        child.kill('SIGKILL');
      }, 10_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** CPU time that a process has used so far, all its threads, in milliseconds. */
export function cpuMs(pid: number): number {
  let ns = 0;
  for (const task of readdirSync(`/proc/${pid}/task`))
    ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
  return ns / 1e6;
}
