import { UsageError } from './exit.ts';

/** A machine of a hostfile. */
export interface HostEntry {
  /** As ssh takes it: a name of its config, `host`, `user@host`. */
  readonly host: string;
  /** Workers to start there; null where the file does not say. */
  readonly slots: number | null;
  readonly line: number;
}

/**
 * Reads a hostfile as DeepSpeed and MPI know it: one host a line, `slots=N` after it, `#` begins a comment. A host that
 * comes twice adds up.
 * @throws UsageError naming file, line and what was expected
 */
export function parseHostfile(text: string, file: string): HostEntry[] {
  const hosts = new Map<string, HostEntry>();
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/#.*/, '').trim();
    if (line === '') continue;
    const at = `${file}:${index + 1}`;
    const [host = '', ...settings] = line.split(/\s+/);
    // A name that begins with a dash would be an option of ssh.
    if (
      !/^([A-Za-z0-9._-]+@)?([A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9a-fA-F:]*:[0-9a-fA-F:.%a-z]*\]?)$/.test(host) ||
      host.startsWith('-')
    )
      throw new UsageError(`${at}: '${host}' is no host: HOST or USER@HOST was expected, as ssh takes it`);
    let slots: number | null = null;
    for (const setting of settings) {
      // (`max_slots` of Open MPI limits oversubscription, which there is none of here.)
      const [, key, value = ''] = /^([a-z_-]+)=(.*)$/.exec(setting) ?? [];
      if (key === 'max_slots' || key === 'max-slots') continue;
      if (key !== 'slots')
        throw new UsageError(`${at}: '${setting}' is not known: 'slots=N' was expected after the host`);
      if (!/^[1-9]\d{0,3}$/.test(value))
        throw new UsageError(`${at}: '${setting}': slots must be a whole number of at least 1`);
      slots = Number(value);
    }
    const before = hosts.get(host);
    hosts.set(
      host,
      before ? { ...before, slots: (before.slots ?? 1) + (slots ?? 1) } : { host, slots, line: index + 1 },
    );
  }
  if (hosts.size === 0) throw new UsageError(`${file} names no host: one a line was expected, e.g. 'node1 slots=4'`);
  return [...hosts.values()];
}
