import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type NatsServer, startNatsServer } from '../comm/index.ts';
import { hostPort, isLoopback } from './nats-host.ts';

/** Options of a NATS server that Plexus runs itself. */
export interface OwnServerOptions {
  readonly listen: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Folder of JetStream's files, of the server's configuration and of a generated token. */
  readonly store: string;
  /** `undefined` generates one (and keeps it) unless only this machine can connect; null lets everybody in. */
  readonly token?: string | null;
  /** Port for clients over WebSocket. */
  readonly ws?: number;
  /** Called when the server has died and is started again, and when that has been given up. */
  readonly note: (text: string) => void;
}

/** A server that is kept running until it is stopped. */
export interface OwnServer {
  readonly port: number;
  readonly token: string | null;
  /** The URL for programs of this machine, login included. */
  readonly url: string;
  /** Resolves, with the reason, if the server cannot be kept running. */
  readonly failed: Promise<Error>;
  stop(): Promise<void>;
}

/** The server's configuration, besides address and JetStream's folder, which are given on its command line. `write_deadline`: a client that is slow for a moment is not thrown out for it. */
export function serverConfig(options: { token: string | null; ws?: { host: string; port: number } }): string {
  const quoted = (text: string): string => JSON.stringify(text);
  return [
    '# Written by `plexus up`, and written anew each time.',
    'max_payload: 1MB',
    'write_deadline: "60s"',
    ...(options.token === null ? [] : [`authorization { token: ${quoted(options.token)} }`]),
    ...(options.ws
      ? [`websocket { listen: ${quoted(hostPort(options.ws.host, options.ws.port))}, no_tls: true }`]
      : []),
    '',
  ].join('\n');
}

/** Times that a server may die within a minute before it is left alone. */
const RESTARTS_A_MINUTE = 5;

/**
 * Starts a nats-server with JetStream and keeps it running: one that dies is started again with the same port and files.
 * @throws NatsServerError where there is none, or it does not start
 */
export async function startOwnServer(options: OwnServerOptions): Promise<OwnServer> {
  const { store, listen, note } = options;
  mkdirSync(store, { recursive: true, mode: 0o700 });
  const token = options.token === undefined ? (isLoopback(listen) ? null : keptToken(store)) : options.token;
  const configFile = join(store, 'nats-server.conf');
  const ws = options.ws === undefined ? undefined : { host: listen, port: options.ws };
  // The token is in a file that only its owner reads, not in the process list.
  writeFileSync(configFile, serverConfig({ token, ...(ws ? { ws } : {}) }), { mode: 0o600 });
  chmodSync(configFile, 0o600);
  const start = (port: number): Promise<NatsServer> =>
    // In a process group of its own: Ctrl-C is for this process, which still needs the server to end in good order.
    startNatsServer({ host: listen, ...(port ? { port } : {}), storeDir: store, configFile, detached: true });
  let server = await start(options.port);
  const { port } = server;
  let stopping = false;
  let fail: (error: Error) => void = () => undefined;
  const failed = new Promise<Error>((resolve) => {
    fail = resolve;
  });
  let deaths: number[] = [];
  const watch = (): void => {
    server.process.once('exit', (code, signal) => {
      if (stopping) return;
      const now = performance.now();
      deaths = [...deaths.filter((at) => now - at < 60_000), now];
      const how = signal ?? `exit code ${code}`;
      if (deaths.length > RESTARTS_A_MINUTE) {
        fail(new Error(`nats-server ended ${deaths.length} times within a minute, the last time with ${how}`));
        return;
      }
      note(`nats-server ended with ${how}; starting it again`);
      start(port).then(
        async (next) => {
          server = next;
          if (stopping) await next.stop();
          else watch();
        },
        (error: Error) => fail(error),
      );
    });
  };
  watch();
  const host = listen === '0.0.0.0' ? '127.0.0.1' : listen === '::' ? '::1' : listen;
  return {
    port,
    token,
    url: joinUrl(host, port, token),
    failed,
    stop: async () => {
      stopping = true;
      if (server.process.exitCode === null && server.process.signalCode === null) await server.stop();
    },
  };
}

/** The URL with the login in it. */
export function joinUrl(host: string, port: number, token: string | null): string {
  return `nats://${token === null ? '' : `${encodeURIComponent(token)}@`}${hostPort(host, port)}`;
}

/** The token of this store: the same each time, so that workers find the server again after it was started anew. */
function keptToken(store: string): string {
  const file = join(store, 'token');
  if (existsSync(file)) {
    const kept = readFileSync(file, 'utf8').trim();
    if (kept.length >= 16) return kept;
  }
  const token = randomBytes(18).toString('base64url');
  writeFileSync(file, `${token}\n`, { mode: 0o600 });
  return token;
}
