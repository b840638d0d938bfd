import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';

/** What answers at a port: a NATS server, a program of another kind, nobody. */
export type Answer = 'nats' | 'other' | 'none';

/**
 * Asks a port what it is; a NATS server introduces itself as soon as it is connected to. (One that wants TLS from the first
 * byte on says nothing and counts as `other`.)
 */
export function askPort(host: string, port: number, timeoutMs = 3_000): Promise<Answer> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    let connected = false;
    const done = (answer: Answer): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => done(connected ? 'other' : 'none'), timeoutMs);
    let text = '';
    socket.on('connect', () => {
      connected = true;
    });
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (text.length >= 5) done(text.startsWith('INFO ') ? 'nats' : 'other');
    });
    socket.on('error', () => done(connected ? 'other' : 'none'));
    socket.on('close', () => done(connected ? 'other' : 'none'));
  });
}

/** Whether only programs of this machine reach what listens there. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host);
}

/** Whether a name or address means this machine. */
export async function isThisMachine(host: string): Promise<boolean> {
  if (isLoopback(host) || host === '0.0.0.0' || host === '::' || host === hostname()) return true;
  const own = new Set(Object.values(networkInterfaces()).flatMap((list) => list?.map(({ address }) => address) ?? []));
  // A name that cannot be resolved is not this machine's; whoever connects to it says so.
  const addresses = await lookup(host, { all: true }).catch(() => []);
  return addresses.some(({ address }) => own.has(address));
}

/** Addresses under which other machines may reach this one: IPv4 first, without those of containers and bridges. */
export function reachableAddresses(
  interfaces: Readonly<
    Record<string, readonly { address: string; family: string; internal: boolean }[] | undefined>
  > = networkInterfaces(),
): string[] {
  const found = Object.entries(interfaces)
    .filter(([name]) => !/^(docker|br-|virbr|cni|flannel|kube)/.test(name))
    .flatMap(([, list]) => list ?? [])
    .filter(({ internal, address }) => !internal && !/^(169\.254\.|fe80:)/i.test(address));
  const four = found.filter(({ family }) => family === 'IPv4').map(({ address }) => address);
  return four.length > 0 ? four : found.map(({ address }) => address);
}

/** `host:port`, with brackets where the host is an IPv6 address. */
export function hostPort(host: string, port: number): string {
  return `${host.includes(':') && !host.startsWith('[') ? `[${host}]` : host}:${port}`;
}
