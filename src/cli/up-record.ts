import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** The server that `plexus up` runs on this machine, for the other commands of the same user. */
export interface UpRecord {
  /** With the login in it; hence the file is readable by its owner only. */
  readonly url: string;
  readonly pid: number;
}

/** Folder of what belongs to a user and a machine: `$XDG_STATE_HOME/plexus`, else `~/.local/state/plexus`. */
export function stateFolder(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return join(env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'plexus');
}

const recordFile = (env?: Readonly<Record<string, string | undefined>>): string => join(stateFolder(env), 'up.json');

/** The server of a `plexus up` that is running, or null. */
export function readUpRecord(env?: Readonly<Record<string, string | undefined>>): UpRecord | null {
  let record: UpRecord;
  try {
    record = JSON.parse(readFileSync(recordFile(env), 'utf8')) as UpRecord;
  } catch {
    // None, or one that was being written when its writer was killed: as good as none.
    return null;
  }
  return typeof record.url === 'string' && isAlive(record.pid) ? record : null;
}

/** Makes the server known; returns what takes that back. */
export function writeUpRecord(record: UpRecord): () => void {
  mkdirSync(stateFolder(), { recursive: true, mode: 0o700 });
  rmSync(recordFile(), { force: true });
  writeFileSync(recordFile(), `${JSON.stringify(record)}\n`, { mode: 0o600 });
  return () => {
    // Another one may have taken its place since.
    if (readUpRecord()?.pid === record.pid) rmSync(recordFile(), { force: true });
  };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
