import { rm } from 'node:fs/promises';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, connect as tlsConnect } from 'node:tls';
import { Greeting, greetDialer, greetListener, HandshakeError, type LinkTerms } from './handshake.ts';

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

/** What a connection is for: `stream` carries frames, `host` is the doorbell of shared memory, `blob` serves blobs. */
export type DialPurpose = 'stream' | 'host' | 'blob';

const RETRY_MS = 50;
/** Strangers that may be talking to a listener at one time, besides the ranks themselves. */
const MAX_STRANGERS = 64;
/** How long a stranger may take to prove itself, in milliseconds. */
const GREETING_MS = 10_000;

/** What a listener does with those who know the secret. */
export interface DirectListenerOptions {
  readonly terms: LinkTerms;
  readonly rank: number;
  readonly tls?: TcpTls | undefined;
  /** Says why a rank gets no connection for this purpose, or null; the dialler waits for a promise. */
  readonly admit: (peer: number, purpose: DialPurpose) => string | null | Promise<string | null>;
  /** A connection stands; `rest` are bytes that came behind the greeting. */
  readonly accepted: (peer: number, purpose: DialPurpose, socket: Socket, rest: Uint8Array) => void;
}

/** Listens for direct connections; both ends prove that they know the job's secret before anything else is read. */
export class DirectListener {
  readonly #options: DirectListenerOptions;
  readonly #server: Server;
  readonly #strangers = new Set<Socket>();
  #address: TcpAddress | null = null;
  #refusals: string[] = [];
  #closed = false;

  constructor(options: DirectListenerOptions) {
    this.#options = options;
    const accept = (socket: Socket) => void this.#accept(socket);
    const { tls } = options;
    // (A peer's certificate is not asked for: it proves itself with the secret.)
    this.#server = tls
      ? createTlsServer({ cert: tls.cert, key: tls.key }, accept)
      : createServer({ noDelay: true }, accept);
  }

  /** Where it listens; the port is the one that was found where 0 was asked for. */
  get address(): TcpAddress | null {
    return this.#address;
  }

  /** Why diallers were turned away, for messages of deadlines. */
  get refusals(): readonly string[] {
    return this.#refusals;
  }

  async listen(wanted: TcpAddress): Promise<TcpAddress> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(wanted, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    const bound = this.#server.address();
    const port = (ifNone: number) => (typeof bound === 'object' && bound ? bound.port : ifNone);
    this.#address = 'path' in wanted ? wanted : { host: wanted.host, port: port(wanted.port) };
    this.#server.unref();
    return this.#address;
  }

  /** Listens no more. Connections that stand are left alone. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#server.close();
    for (const socket of this.#strangers) socket.destroy();
    if (this.#address && 'path' in this.#address) await rm(this.#address.path, { force: true });
  }

  async #accept(socket: Socket): Promise<void> {
    const { terms, rank, admit, accepted } = this.#options;
    // What goes wrong before a peer is known concerns nobody else.
    const ignored = () => undefined;
    socket.on('error', ignored);
    if (this.#closed || this.#strangers.size >= MAX_STRANGERS + terms.world) {
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
      const { peer, purpose } = await greetDialer(greeting, terms, rank, async (candidate, wish) => {
        clearTimeout(timer);
        const objection = await admit(candidate, wish);
        return socket.destroyed ? 'the connection ended during the greeting' : objection;
      });
      socket.off('data', read);
      socket.off('close', ended);
      this.#strangers.delete(socket);
      socket.setNoDelay(true);
      accepted(peer, purpose, socket, greeting.rest());
    } catch (error) {
      if (!(error instanceof HandshakeError)) throw error;
      if (this.#refusals.length < 8) this.#refusals.push(error.message);
      socket.end();
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Where bytes belong that come on a dialled connection. */
export interface DialReader {
  /** Where the next bytes belong. */
  target(): Uint8Array;
  /** So many bytes came where `target` said. */
  advance(count: number): void;
  /** Bytes came, in memory of their own (TLS). */
  arrived(bytes: Uint8Array): void;
}

/** Whom to dial, and what for. */
export interface DialOptions {
  readonly terms: LinkTerms;
  readonly rank: number;
  readonly peer: number;
  readonly address: TcpAddress;
  readonly purpose?: DialPurpose;
  readonly tls?: TcpTls | undefined;
  /** When to give up, in `performance.now()`. */
  readonly until: number;
  /** When to give up if nobody has answered there until then, where that is sooner. */
  readonly answerBy?: number;
  /** Given up before that. */
  readonly stopped: () => boolean;
  readonly reader: DialReader;
  /** The connection stands; `rest` are bytes that came behind the greeting, for the reader. */
  readonly linked: (socket: Socket, rest: Uint8Array) => void;
}

/**
 * Dials until someone answers or the deadline passes; the ranks of a job start at different moments.
 * @throws HandshakeError if the other end refuses or is not who it should be; Error naming both ranks and the address
 */
export async function dialPeer(options: DialOptions): Promise<void> {
  const { rank, peer, address, answerBy, stopped } = options;
  const since = performance.now();
  const patience = { until: Math.min(options.until, answerBy ?? options.until) };
  const answered = () => {
    patience.until = options.until;
  };
  for (;;) {
    try {
      await dialOnce(options, patience, answered);
      return;
    } catch (error) {
      if (error instanceof HandshakeError || stopped()) throw error;
      if (performance.now() + RETRY_MS > patience.until)
        throw new Error(
          `rank ${rank} could not reach rank ${peer} at ${showAddress(address)} in ${Math.round(performance.now() - since)} ms: ${(error as Error).message}`,
          { cause: error },
        );
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function dialOnce(
  options: DialOptions,
  patience: { readonly until: number },
  answered: () => void,
): Promise<void> {
  const { terms, rank, peer, address, purpose = 'stream', tls, stopped, reader } = options;
  const first = Buffer.alloc(4096);
  let linked = false;
  let greeting: Greeting | null = null;
  const arrived = (bytes: Uint8Array) => {
    if (linked) reader.arrived(bytes);
    else greeting?.push(bytes);
  };
  // A buffer is asked for before the next bytes come: the first frames may still land where the greeting did.
  let inPlace = false;
  const socket = openSocket(address, tls, {
    buffer: () => {
      inPlace = linked;
      return linked ? reader.target() : first;
    },
    callback: (count) => {
      if (inPlace) reader.advance(count);
      else arrived(first.slice(0, count));
    },
    data: arrived,
  });
  greeting = new Greeting(socket);
  const failed = (error?: Error | boolean) =>
    greeting?.end(error instanceof Error ? error : new Error('the connection ended during the greeting'));
  socket.on('error', failed);
  socket.on('close', failed);
  const giveUp = () =>
    setTimeout(() => socket.destroy(new Error('nobody answered')), Math.max(1, patience.until - performance.now()));
  let timer = giveUp();
  try {
    await greetListener(greeting, terms, rank, peer, purpose, () => {
      answered();
      clearTimeout(timer);
      timer = giveUp();
    });
    if (stopped()) throw new Error('closed here');
    linked = true;
    socket.off('error', failed);
    socket.off('close', failed);
    options.linked(socket, greeting.rest());
  } catch (error) {
    // (It may still have something to say about its end.)
    socket.on('error', () => undefined);
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function openSocket(
  address: TcpAddress,
  tls: TcpTls | undefined,
  read: { buffer(): Uint8Array; callback(count: number): void; data(bytes: Uint8Array): void },
): Socket {
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

/** An address as messages show it. */
export function showAddress(address: TcpAddress): string {
  return 'path' in address ? address.path : `${address.host}:${address.port}`;
}
