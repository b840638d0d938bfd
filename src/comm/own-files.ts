import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';

/*
 * Files that must not outlive their process, however it ends: unix sockets and shared memory. Their names say whose they
 * are (user, PID namespace, process, and when that process started, since PIDs are used again), so that the next process
 * can remove what a killed one has left.
 */

/** Where shared memory lives. */
export const SHARED_MEMORY = '/dev/shm';

/** Fresh name for a file of this process: `plexus-<user>-<namespace>-<pid>-<start>-<random>`. */
export function ownName(): string {
  const { pid } = process;
  return `${prefix()}-${pid}-${startTime(pid) ?? 0}-${randomBytes(6).toString('hex')}`;
}

/** Path for a fresh unix socket of this process, in a folder that only this user can read. */
export function socketPath(): string {
  const folder = socketFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return join(folder, `${ownName()}.sock`);
}

/**
 * Removes shared memory and sockets that killed processes of this user have left. Called when an endpoint opens; costs
 * well under a millisecond. Returns the paths of what was removed.
 */
export function sweepSharedMemory(): readonly string[] {
  const removed: string[] = [];
  for (const folder of [SHARED_MEMORY, socketFolder()])
    for (const name of listed(folder)) {
      const match = /^(plexus-\d+-\d+)-(\d+)-(\d+)-[0-9a-f]{12}(\.sock)?$/.exec(name);
      if (!match || match[1] !== prefix()) continue;
      const start = startTime(Number(match[2]));
      if (start === undefined || (start !== null && start === Number(match[3]))) continue;
      const path = join(folder, name);
      rmSync(path, { force: true });
      removed.push(path);
    }
  return removed;
}

function socketFolder(): string {
  // (The path of a socket may have 107 bytes.)
  const folder = tmpdir().length > 32 ? '/tmp' : tmpdir();
  return join(folder, `plexus-${userInfo().uid}`);
}

let ownPrefix: string | null = null;

function prefix(): string {
  ownPrefix ??= `plexus-${Math.max(0, userInfo().uid)}-${pidNamespace()}`;
  return ownPrefix;
}

function pidNamespace(): string {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? '0';
  } catch {
    return '0'; // no /proc
  }
}

/** When a process started, in clock ticks since boot; null if there is no such process; undefined if nobody knows. */
function startTime(pid: number): number | null | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    return (error as { code?: string }).code === 'ENOENT' && process.platform === 'linux' ? null : undefined;
  }
  // (The name in brackets may contain anything.)
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' ? null : Number(fields[19]);
}

function listed(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // not there: nothing was left in it
  }
}
