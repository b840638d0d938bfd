import { connect } from 'node:net';

/** Whether a TCP connection to an address can be made: connects and hangs up. Never throws; `timeoutMs` at most. */
export function probe(address: { readonly host: string; readonly port: number }, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address.host, port: address.port });
    const done = (reachable: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reachable);
    };
    const timer = setTimeout(() => done(false), timeoutMs);
    socket.once('connect', () => done(true));
    socket.on('error', () => done(false));
  });
}
