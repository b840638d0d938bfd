import { join } from 'node:path';
import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { type Environment, jobName, natsPlace, wantsNats } from './nats-flags.ts';
import { askPort, hostPort, isLoopback, isThisMachine, reachableAddresses } from './nats-host.ts';
import { joinUrl, type OwnServer, startOwnServer } from './own-server.ts';
import { type Streams, shownPath } from './terminal.ts';
import { type TrainOptions, train } from './train.ts';
import { readUpRecord, stateFolder, writeUpRecord } from './up-record.ts';

/** Options of `plexus up`; those of `plexus train` are for the config. */
export interface UpOptions extends TrainOptions {
  readonly port?: number;
  readonly listen?: string;
  readonly store?: string;
  readonly ws?: number;
  /** A token; `false` where everybody may connect. */
  readonly token?: string | boolean;
}

const DEFAULT_PORT = 4222;

/**
 * `plexus up [CONFIG]`: makes sure that a NATS server answers, by starting one where none does, and says how workers join.
 * With a config it leads the run as well and ends with it; without one it stays until it is stopped. What it has started
 * ends with it.
 */
export async function up(
  config: string | undefined,
  options: UpOptions,
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
  env: Environment = process.env,
): Promise<ExitCode> {
  if (config === undefined && options.resume === undefined) onlyWithConfig(options);
  const say = (text: string): unknown =>
    options.json
      ? streams.out.write(`${JSON.stringify({ type: 'note', message: text })}\n`)
      : streams.err.write(`${text}\n`);
  const found = await runningServer(options, env);
  if ('url' in found) {
    say(`a NATS server answers at ${found.shown} already`);
    if (config === undefined && options.resume === undefined) {
      say(`workers join with\n  plexus worker --nats ${found.shown}`);
      return exitCodes.ok;
    }
    return train(config, { ...options, nats: found.url }, streams, calls);
  }
  const listen = options.listen ?? '0.0.0.0';
  const store = options.store ?? join(stateFolder(env), `nats-${found.port}`);
  const server = await startOwnServer({
    listen,
    port: found.port,
    store,
    note: say,
    ...(found.token === undefined ? {} : { token: found.token }),
    ...(options.ws === undefined ? {} : { ws: options.ws }),
  });
  const forget = writeUpRecord({ url: server.url, pid: process.pid });
  try {
    const job = jobName(options, env);
    announce({ server, listen, store, job, secretGiven: found.token !== undefined }, options, streams);
    if (config === undefined && options.resume === undefined) return await stay(server, say);
    // (A server that cannot be kept running shows in the run: its waits run out.)
    void server.failed.then((error) => say(`! ${error.message}`));
    return await train(config, { ...withoutLogin(options), nats: server.url }, streams, calls);
  } finally {
    forget();
    await server.stop();
  }
}

/** Waits for a signal, or for the end of the server. */
async function stay(server: OwnServer, say: (text: string) => unknown): Promise<ExitCode> {
  const interrupt = listenForInterrupt(() => say('stopping the NATS server'));
  // A promise that waits for a signal does not keep the process alive by itself.
  const alive = setInterval(() => undefined, 60_000);
  try {
    const ended = new Promise<null>((resolve) => {
      interrupt.signal.addEventListener('abort', () => resolve(null), { once: true });
    });
    const failure = await Promise.race([ended, server.failed]);
    if (failure) throw failure;
    return interrupt.code();
  } finally {
    clearInterval(alive);
    interrupt.dispose();
  }
}

/** The server that there is already, or how to start one. @throws UsageError where neither can be */
async function runningServer(
  options: UpOptions,
  env: Environment,
): Promise<{ url: string; shown: string } | { port: number; token?: string | null }> {
  const named = typeof options.nats === 'string' || wantsNats({}, env);
  const record = named ? null : readUpRecord(env);
  if (record && (options.port === undefined || record.url.endsWith(`:${options.port}`)))
    return { url: record.url, shown: natsPlace({ nats: record.url }, {}).shown };
  const url = named ? ((options.nats as string | undefined) ?? (env.PLEXUS_NATS as string)) : localUrl(options.port);
  const { nats } = natsPlace({ ...options, nats: url }, env);
  for (const server of nats.servers) {
    const { host, port } = hostAndPort(server);
    const answer = await askPort(host, port);
    if (answer === 'nats') return { url, shown: server };
    if (answer === 'other')
      throw new UsageError(
        `what listens at ${hostPort(host, port)} is no NATS server: choose another port with --port`,
      );
    if (!(await isThisMachine(host)))
      throw new UsageError(
        `no NATS server answers at ${server}, and 'plexus up' starts one on its own machine only: run it there, or leave --nats out`,
      );
  }
  if (nats.user !== undefined || nats.creds !== undefined || nats.nkey !== undefined || nats.tls)
    throw new UsageError(
      `no NATS server answers at ${nats.servers[0]}, and 'plexus up' starts servers that know a token only: start yours with its own configuration (docs/security.md)`,
    );
  if (options.token === false) return { port: hostAndPort(nats.servers[0] as string).port, token: null };
  const token = typeof options.token === 'string' ? options.token : nats.token;
  if (token !== undefined && !/^[\w.~-]{8,256}$/.test(token))
    throw new UsageError(
      '--token: at least 8 letters, digits and any of . _ ~ - were expected, since it becomes part of a URL',
    );
  return { port: hostAndPort(nats.servers[0] as string).port, ...(token === undefined ? {} : { token }) };
}

const localUrl = (port = DEFAULT_PORT): string => `nats://127.0.0.1:${port}`;

function hostAndPort(server: string): { host: string; port: number } {
  const [, host = '', port] = /^\w+:\/\/(.*):(\d+)/.exec(server) ?? [];
  return { host: host.replace(/^\[|\]$/g, ''), port: Number(port) };
}

/** The server that was just started has its login in its URL. */
function withoutLogin(options: UpOptions): UpOptions {
  const { natsToken: _, ...rest } = options;
  return rest;
}

/** Says how others join: with each address of this machine that may be reachable. */
function announce(
  up: {
    readonly server: OwnServer;
    readonly listen: string;
    readonly store: string;
    readonly job: string;
    /** Whoever gave the token knows it, and logs need not. */
    readonly secretGiven: boolean;
  },
  options: UpOptions,
  streams: Streams,
): void {
  const { server, listen, store } = up;
  const { port, token } = server;
  const hosts = listen === '0.0.0.0' || listen === '::' ? reachableAddresses() : [listen];
  const join = (secret: string | null): string[] =>
    (hosts.length > 0 ? hosts : ['127.0.0.1']).map(
      (host) => `plexus worker --nats ${joinUrl(host, port, secret)}${up.job === 'default' ? '' : ` --job ${up.job}`}`,
    );
  if (options.json) {
    streams.out.write(
      `${JSON.stringify({ type: 'up', port: server.port, url: server.url, join: join(token), store, pid: process.pid })}\n`,
    );
    return;
  }
  const lines = [
    `NATS server with JetStream on ${hostPort(listen, server.port)}, files in ${shownPath(store)}`,
    ...(options.ws === undefined ? [] : [`WebSocket on ${hostPort(listen, options.ws)}`]),
    isLoopback(listen) ? 'workers on this machine join with' : 'workers join with',
    ...join(token !== null && up.secretGiven ? 'TOKEN' : token).map((command) => `  ${command}`),
    ...(server.token === null && !isLoopback(listen)
      ? ['! without a token everybody who reaches this port can join and read everything']
      : []),
    ...(isLoopback(listen)
      ? []
      : ['commands on this machine find the server by themselves; the connection is not encrypted (docs/security.md)']),
  ];
  streams.err.write(`${lines.join('\n')}\n`);
}

function onlyWithConfig(options: UpOptions): void {
  const flags = {
    '--min-workers': options.minWorkers,
    '--max-workers': options.maxWorkers,
    '--workers': options.workers,
    '--standby': options.standby,
  };
  for (const [flag, value] of Object.entries(flags))
    if (value !== undefined)
      throw new UsageError(`${flag} belongs to a run, and no config is given: plexus up CONFIG ${flag} …`);
  if (options.set.length > 0)
    throw new UsageError('--set belongs to a run, and no config is given: plexus up CONFIG --set …');
}
