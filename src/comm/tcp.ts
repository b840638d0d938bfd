import { rm } from 'node:fs/promises';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, connect as tlsConnect } from 'node:tls';
import { noFaults } from './frame.ts';
import { Greeting, greetDialer, greetListener, HandshakeError, type LinkTerms } from './handshake.ts';
import { LinkedTransport, type LinkedTransportOptions } from './linked-transport.ts';
import { TcpLink } from './tcp-link.ts';
import type { Transport } from './transport.ts';

/** Where a rank can be reached: a TCP port, or the path of a unix socket. */
export type TcpAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** Certificates, as PEM text; see Node's `tls` for what they mean. Every rank both listens and dials. */
export interface TcpTls {
  readonly cert: string;
  readonly key: string;
  /** Who must have signed the other ranks' certificates. */
  readonly ca: string;
  /** The name that the other ranks' certificates bear. Default: the host that is dialled. */
  readonly servername?: string;
}

/** Options of direct links. */
export interface TcpOptions extends LinkedTransportOptions {
  readonly rank: number;
  readonly world: number;
  readonly job: string;
  readonly generation?: number;
  /** The job's secret, at least 16 bytes, the same on every rank: who does not know it gets no link. */
  readonly secret: string | Uint8Array;
  /** Where to listen. Default: any free port on 127.0.0.1. */
  readonly listen?: TcpAddress;
  /** Encrypts the links. Without it they are authenticated, not encrypted. */
  readonly tls?: TcpTls;
  /**
   * Whether tensors carry a checksum besides their headers. Default `auto`: over a network without TLS they do, within a
   * machine they do not, where checking memory against itself would halve the throughput.
   */
  readonly checksum?: boolean | 'auto';
  /** Tensors with more bytes are refused by the receiver. Default 1 GiB. */
  readonly maxTensorBytes?: number;
}

/** A rank that listens and can be dialled, but is not linked to all others yet. */
export interface TcpEndpoint {
  /** What the other ranks must be told. */
  readonly address: TcpAddress;
  /**
   * Dials every other rank (`addresses[r]` is rank r's) and waits until all have dialled this one.
   * @throws HandshakeError if a rank is refused or refuses; Error naming the ranks that are missing at the deadline
   */
  connect(addresses: readonly TcpAddress[]): Promise<Transport>;
  close(): Promise<void>;
}

const RETRY_MS = 50;
/** Strangers that may be talking to the listener at one time, besides the ranks themselves. */
const MAX_STRANGERS = 64;
/** How long a stranger may take to prove itself, in milliseconds. */
const GREETING_MS = 10_000;

/**
 * Begins to listen for direct links over TCP or a unix socket. Each pair of ranks has a connection a direction, dialled by
 * the one that receives; both ends prove that they know the job's secret before anything else is read.
 */
export async function listenTcp(options: TcpOptions): Promise<TcpEndpoint> {
  const endpoint = new Endpoint(options);
  await endpoint.listen();
  return endpoint;
}

class Endpoint implements TcpEndpoint {
  readonly #options: TcpOptions;
  readonly #terms: LinkTerms;
  readonly #deadlineMs: number;
  readonly #server: Server;
  readonly #links: (TcpLink | null)[] = [];
  readonly #transport: LinkedTransport;
  readonly #strangers = new Set<Socket>();
  #address: TcpAddress | null = null;
  #refusals: string[] = [];
  #progress: () => void = () => undefined;
  #closed = false;

  constructor(options: TcpOptions) {
    const { rank, world, job, generation = 0, secret, tls, deadlineMs = 60_000, credits = 64 } = options;
    if (Buffer.byteLength(secret) < 16)
      throw new RangeError('the secret of direct links must have at least 16 bytes; take randomBytes(32), say');
    this.#options = options;
    this.#deadlineMs = deadlineMs;
    this.#terms = { job, generation, world, credits, secret };
    const accept = (socket: Socket) => void this.#accept(socket);
    // (A peer's certificate is not asked for: it proves itself with the secret.)
    this.#server = tls
      ? createTlsServer({ cert: tls.cert, key: tls.key }, accept)
      : createServer({ noDelay: true }, accept);
    const dropped = noFaults();
    const { maxTensorBytes: maxDataBytes = 2 ** 30, checksum = 'auto' } = options;
    const name = options.listen && 'path' in options.listen ? 'unix' : 'tcp';
    this.#transport = new LinkedTransport(
      { name, rank, world },
      options,
      (peer, inbox) => {
        const link =
          peer === rank ? null : new TcpLink({ job, generation, rank, peer, maxDataBytes, checksum, dropped }, inbox);
        this.#links.push(link);
        return link;
      },
      { statistics: () => ({ dropped: { ...dropped } }), close: () => this.#stopListening() },
    );
  }

  get address(): TcpAddress {
    return this.#address as TcpAddress;
  }

  async listen(): Promise<void> {
    const wanted = this.#options.listen ?? { host: '127.0.0.1', port: 0 };
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(wanted, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    const bound = this.#server.address();
    this.#address =
      'path' in wanted
        ? wanted
        : { host: wanted.host, port: typeof bound === 'object' && bound ? bound.port : wanted.port };
    this.#server.unref();
  }

  async connect(addresses: readonly TcpAddress[]): Promise<Transport> {
    const { rank, world } = this.#options;
    if (addresses.length !== world)
      throw new RangeError(`${world} ranks need ${world} addresses, got ${addresses.length}`);
    const until = performance.now() + this.#deadlineMs;
    try {
      const inbound = this.#allHaveDialled();
      await Promise.all([
        ...addresses.map((address, peer) => (peer === rank ? undefined : this.#dial(address, peer, until))),
        inbound,
      ]);
    } catch (error) {
      await this.close();
      throw error;
    }
    await this.#stopListening();
    return this.#transport;
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #stopListening(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#server.close();
    for (const socket of this.#strangers) socket.destroy();
    if (this.#address && 'path' in this.#address) await rm(this.#address.path, { force: true });
  }

  /** Resolves when every other rank has dialled this one. */
  #allHaveDialled(): Promise<void> {
    return new Promise((resolve, reject) => {
      const missing = () => this.#links.flatMap((link, peer) => (link && !link.canSend ? [peer] : []));
      const timer = setTimeout(() => {
        const refused = this.#refusals.length > 0 ? ` (refused: ${this.#refusals.join('; ')})` : '';
        reject(
          new Error(
            `rank ${this.#options.rank} waited ${this.#deadlineMs} ms for rank ${missing().join(', ')} to dial it at ${show(this.address)}${refused}`,
          ),
        );
      }, this.#deadlineMs);
      this.#progress = () => {
        if (missing().length > 0 && !this.#closed) return;
        clearTimeout(timer);
        if (missing().length === 0) resolve();
        else reject(new Error(`rank ${this.#options.rank} was closed while it waited for its links`));
      };
      this.#progress();
    });
  }

  async #accept(socket: Socket): Promise<void> {
    const { rank, world } = this.#options;
    // What goes wrong before a peer is known concerns nobody else.
    socket.on('error', () => undefined);
    if (this.#closed || this.#strangers.size >= MAX_STRANGERS + world) {
      socket.destroy();
      return;
    }
    this.#strangers.add(socket);
    socket.once('close', () => this.#strangers.delete(socket));
    const greeting = new Greeting(socket);
    const timer = setTimeout(() => socket.destroy(), GREETING_MS);
    const read = (bytes: Uint8Array) => greeting.push(bytes);
    const ended = () => greeting.end(new HandshakeError('the connection ended during the greeting'));
    socket.on('data', read);
    socket.once('close', ended);
    try {
      const peer = await greetDialer(greeting, this.#terms, rank, (candidate) =>
        this.#links[candidate]?.canSend ? `rank ${candidate} has a link already` : null,
      );
      socket.off('data', read);
      socket.off('close', ended);
      this.#strangers.delete(socket);
      socket.setNoDelay(true);
      this.#links[peer]?.attachOut(socket);
      this.#progress();
    } catch (error) {
      if (!(error instanceof HandshakeError)) throw error;
      if (this.#refusals.length < 8) this.#refusals.push(error.message);
      socket.end();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Dials until someone answers or the deadline passes; the ranks of a job start at different moments. */
  async #dial(address: TcpAddress, peer: number, until: number): Promise<void> {
    for (;;) {
      try {
        await this.#dialOnce(address, peer, until);
        return;
      } catch (error) {
        if (error instanceof HandshakeError || this.#closed) throw error;
        if (performance.now() + RETRY_MS > until)
          throw new Error(
            `rank ${this.#options.rank} could not reach rank ${peer} at ${show(address)} in ${this.#deadlineMs} ms: ${(error as Error).message}`,
            { cause: error },
          );
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  async #dialOnce(address: TcpAddress, peer: number, until: number): Promise<void> {
    const link = this.#links[peer] as TcpLink;
    const first = Buffer.alloc(4096);
    let linked = false;
    let greeting: Greeting | null = null;
    const arrived = (bytes: Uint8Array) => {
      if (linked) link.arrived(bytes);
      else greeting?.push(bytes);
    };
    // A buffer is asked for before the next bytes come: the first frames may still land where the greeting did.
    let inPlace = false;
    const socket = this.#open(address, {
      buffer: () => {
        inPlace = linked;
        return linked ? link.target() : first;
      },
      callback: (count) => {
        if (inPlace) link.advance(count);
        else arrived(first.slice(0, count));
      },
      data: arrived,
    });
    greeting = new Greeting(socket);
    const failed = (error?: Error | boolean) =>
      greeting?.end(error instanceof Error ? error : new Error('the connection ended during the greeting'));
    socket.on('error', failed);
    socket.on('close', failed);
    const timer = setTimeout(
      () => socket.destroy(new Error('nobody answered')),
      Math.max(1, until - performance.now()),
    );
    try {
      await greetListener(greeting, this.#terms, this.#options.rank, peer);
      if (this.#closed) throw new Error('closed here');
      linked = true;
      socket.off('error', failed);
      socket.off('close', failed);
      link.attachIn(socket, greeting.rest());
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #open(
    address: TcpAddress,
    read: { buffer(): Uint8Array; callback(count: number): void; data(bytes: Uint8Array): void },
  ): Socket {
    const { tls } = this.#options;
    if (tls) {
      const host = 'host' in address ? { servername: tls.servername ?? address.host } : { servername: tls.servername };
      const socket = tlsConnect({ ...address, ...host, ca: tls.ca });
      socket.setNoDelay(true);
      return socket.on('data', read.data);
    }
    const onread = {
      buffer: read.buffer,
      callback: (count: number) => {
        read.callback(count);
        return true;
      },
    };
    return netConnect({ ...address, noDelay: true, onread });
  }
}

function show(address: TcpAddress): string {
  return 'path' in address ? address.path : `${address.host}:${address.port}`;
}
