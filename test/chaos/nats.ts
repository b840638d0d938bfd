import { mkdirSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { findNatsServer, NatsServerError } from '../../src/comm/index.ts';
import type { Proc, Processes } from './processes.ts';

/** Options of the servers of a test. */
export interface ServersOptions {
  /** 1, or 3 for a cluster whose JetStream survives the loss of one. */
  readonly count?: 1 | 3;
  /** Addresses to listen on, one a server; default 127.0.0.1. */
  readonly hosts?: readonly string[];
  /** Bytes. The server's own default is 1 MB. */
  readonly maxPayload?: number;
  /** Further lines of each configuration file (users, limits). */
  readonly lines?: readonly string[];
  /** Put in front of the command, such as `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
}

/** Real NATS servers with JetStream on disk, each of which can be killed and started again on its port and store. */
export class NatsServers {
  /** `nats://host:port` of each. */
  readonly urls: readonly string[];
  readonly #processes: Processes;
  readonly #folder: string;
  readonly #options: ServersOptions;
  readonly #ports: readonly { readonly host: string; readonly client: number; readonly route: number }[];
  readonly #running: (Proc | null)[];

  private constructor(
    processes: Processes,
    folder: string,
    options: ServersOptions,
    ports: readonly { readonly host: string; readonly client: number; readonly route: number }[],
  ) {
    this.#processes = processes;
    this.#folder = folder;
    this.#options = options;
    this.#ports = ports;
    this.#running = ports.map(() => null);
    this.urls = ports.map(({ host, client }) => `nats://${host}:${client}`);
  }

  /** Starts them and waits until they, and their JetStream, answer. */
  static async start(processes: Processes, folder: string, options: ServersOptions = {}): Promise<NatsServers> {
    const count = options.count ?? 1;
    const ports = [];
    for (let index = 0; index < count; index++) {
      const host = options.hosts?.[index] ?? '127.0.0.1';
      // In a namespace of its own no port is taken.
      const inside = options.prefix !== undefined;
      ports.push({
        host,
        client: inside ? 4222 + index : await freePort(),
        route: inside ? 6222 + index : await freePort(),
      });
    }
    const servers = new NatsServers(processes, folder, options, ports);
    await Promise.all(ports.map((_, index) => servers.restart(index)));
    return servers;
  }

  /** All URLs, as `--nats` takes them. */
  get url(): string {
    return this.urls.join(',');
  }

  /** Kills a server like a power cut. */
  async kill(index = 0): Promise<void> {
    await this.#running[index]?.kill();
    this.#running[index] = null;
  }

  /** Starts a server, or starts it again on its port and with its store; waits until it listens. */
  async restart(index = 0): Promise<void> {
    const program = findNatsServer();
    if (program === null)
      throw new NatsServerError('nats-server is not installed (Debian, Ubuntu: apt-get install nats-server)');
    const { host, client } = this.#ports[index]!;
    const file = join(this.#folder, `nats-${index}.conf`);
    writeFileSync(file, this.#config(index));
    const { prefix } = this.#options;
    const proc = this.#processes.start(`nats-server ${index}`, [program, '-c', file], { ...(prefix && { prefix }) });
    this.#running[index] = proc;
    await this.#processes.until(`nats-server on ${host}:${client}`, 20_000, () => {
      if (!proc.running) throw new Error('nats-server ended');
      return proc.lines.some((line) => line.includes('Server is ready'));
    });
    // In a cluster, JetStream answers when a leader has been elected; a client retries, so that is not waited for here.
  }

  #config(index: number): string {
    const { maxPayload, lines = [] } = this.#options;
    const { host, client, route } = this.#ports[index]!;
    const store = join(this.#folder, `nats-store-${index}`);
    mkdirSync(store, { recursive: true });
    const cluster =
      this.#ports.length === 1
        ? []
        : [
            `cluster { name: chaos, listen: "${host}:${route}", routes: [`,
            ...this.#ports.map((port) => `  "nats-route://${port.host}:${port.route}"`),
            '] }',
          ];
    return `${[
      `server_name: chaos-${index}`,
      `listen: "${host}:${client}"`,
      `jetstream { store_dir: "${store}", max_mem: 64MB, max_file: 1GB }`,
      ...(maxPayload === undefined ? [] : [`max_payload: ${maxPayload}`]),
      ...cluster,
      ...lines,
    ].join('\n')}\n`;
  }
}

/** A port of this machine that nobody listens on now. */
export function freePort(host = '127.0.0.1'): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** Whether something accepts connections there. */
export function answers(host: string, port: number, timeoutMs = 1000): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    const end = (found: boolean) => {
      socket.destroy();
      resolve(found);
    };
    socket.setTimeout(timeoutMs, () => end(false));
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
  });
}
