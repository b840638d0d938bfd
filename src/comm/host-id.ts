import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname, networkInterfaces, userInfo } from 'node:os';

let known: string | null = null;

/**
 * Equal for processes that can share memory and unix sockets: the same boot of the same machine, the same user, and the
 * same mount and IPC namespaces (two containers of a machine have different ones). 16 hexadecimal digits. The environment
 * variable `PLEXUS_HOST_ID` overrides it, so that processes of one machine can be told to behave as if on several.
 */
export function hostId(): string {
  known ??= process.env.PLEXUS_HOST_ID || computed();
  return known;
}

function computed(): string {
  const parts = [userInfo().uid];
  const more = [
    () => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    () => readlinkSync('/proc/self/ns/mnt'),
    () => readlinkSync('/proc/self/ns/ipc'),
  ].map(orNull);
  // (Without /proc there are no namespaces either.)
  const macs = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ mac }) => mac));
  const machine = more[0] === null ? [hostname(), ...macs.sort()] : more;
  return createHash('sha256')
    .update(JSON.stringify([...parts, ...machine]))
    .digest('hex')
    .slice(0, 16);
}

function orNull(read: () => string): string | null {
  try {
    return read();
  } catch {
    return null; // another operating system
  }
}

/**
 * The address under which others can probably reach this machine. `seen` is how a server sees it (NATS says that), which
 * counts if it is an address of this machine's own; otherwise the first one that is not of the loopback interface.
 */
export function ownAddress(seen?: string): string {
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  if (seen && own.some(({ address, internal }) => address === seen && !internal)) return seen;
  const outward = own.filter(({ internal }) => !internal);
  const v4 = outward.find(({ family }) => family === 'IPv4');
  return (v4 ?? outward.find(({ address }) => !address.startsWith('fe80')))?.address ?? '127.0.0.1';
}
