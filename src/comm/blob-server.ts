import type { Socket } from 'node:net';
import type { Msg, NatsConnection } from '@nats-io/transport-node';
import { BlobShelf, type BlobSource } from './blob-shelf.ts';
import { ANSWER_BYTES, type BlobPlace, blobSubject, unpackRequest, writeAnswer } from './blob-wire.ts';
import { DirectListener } from './direct.ts';
import { checksum } from './frame.ts';
import type { LinkTerms } from './handshake.ts';
import { hostId, ownAddress } from './host-id.ts';
import { listen } from './nats-listen.ts';
import { connectionUp } from './nats-status.ts';
import { socketPath } from './own-files.ts';

/** Options of a server of blobs. */
export interface BlobServerOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  /** Name of this process: an agent's id, say. */
  readonly owner: string;
  /** The job's secret; it can also be set later, and nothing is given to anybody before. */
  readonly secret?: string | Uint8Array;
  /** Where to listen for direct connections: default any port of all interfaces; `null`: only NATS and unix sockets. */
  readonly listen?: { readonly host?: string; readonly port?: number } | null;
}

/** Secrets of generations before that are still good, besides the newest: what is on its way may end. */
const OLD_SECRETS = 3;
/** Requests over NATS that are read at a time; others are dropped, and come again. */
const MAX_READS = 64;
/** Connections at a time. */
const MAX_CONNECTIONS = 256;
/** Connections on which nothing moves for so long are closed, in milliseconds. */
const IDLE_MS = 60_000;
/** Bytes behind one header on a direct connection. */
const PIECE_BYTES = 2 ** 20;
/** A request on a direct connection has no more bytes than this. */
const MAX_REQUEST_BYTES = 2048;

/**
 * Offers named ranges of bytes to the other processes of a job: snapshots, replicas, checkpoints. They are fetched with
 * `fetchBlob`, over NATS or a direct connection; either way the asker proves that it knows the job's secret.
 */
export class BlobServer {
  readonly #options: BlobServerOptions;
  readonly #shelf = new BlobShelf();
  readonly #unlisten: () => void;
  readonly #connections = new Set<Socket>();
  #secrets: (string | Uint8Array)[] = [];
  #listening: Promise<BlobPlace> | null = null;
  #listeners: DirectListener[] = [];
  #reads = 0;
  #closed = false;

  constructor(options: BlobServerOptions) {
    const { nats, job, owner, secret } = options;
    this.#options = options;
    if (secret !== undefined) this.secret = secret;
    this.#unlisten = listen(nats, blobSubject(job, owner), (message) => void this.#asked(message));
  }

  /** The job's secret of now; the few before it stay good for what has begun. */
  set secret(secret: string | Uint8Array) {
    const same = (other: string | Uint8Array) => Buffer.compare(Buffer.from(other), Buffer.from(secret)) === 0;
    this.#secrets = [secret, ...this.#secrets.filter((other) => !same(other))].slice(0, 1 + OLD_SECRETS);
  }

  /**
   * Offers bytes under a name until the returned function is called. They must not change meanwhile; who is fetching them
   * when they are withdrawn gets `BlobGone`.
   * @throws Error if the name is taken
   */
  offer(name: string, bytes: BlobSource): () => void {
    if (this.#closed) throw new Error(`blob "${name}" cannot be offered: the server is closed`);
    return this.#shelf.offer(name, bytes);
  }

  /** Offers nothing any more, ends the connections. The connection to NATS stays. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#unlisten();
    this.#shelf.clear();
    await this.#listening?.catch(() => undefined); // (Whoever asked for it was told.)
    await Promise.all(this.#listeners.map((listener) => listener.close()));
    for (const socket of this.#connections) socket.destroy();
  }

  // ---- over NATS

  async #asked(message: Msg): Promise<void> {
    const { nats, owner } = this.#options;
    const found = unpackRequest(message.data, owner, this.#secrets);
    if (!found || !message.reply || this.#reads >= MAX_READS) return;
    const { request, known } = found;
    this.#reads += 1;
    try {
      if (!known)
        return this.#answer(message, 'refused', text(`who asks for blobs of ${owner} does not know the job's secret`));
      if (request.blob === null) {
        const place = await this.#listen();
        return this.#answer(message, 'ok', text(JSON.stringify(place)));
      }
      const most = (nats.info?.max_payload ?? 65_536) - ANSWER_BYTES;
      const piece = await this.#shelf.read(request, most);
      this.#answer(message, piece.status, 'bytes' in piece ? piece.bytes : text(piece.why));
      if ('bytes' in piece) piece.release(); // (An answer is a copy.)
    } catch (error) {
      this.#answer(message, 'failed', text((error as Error).message));
    } finally {
      this.#reads -= 1;
    }
  }

  #answer({ reply }: Msg, status: Parameters<typeof writeAnswer>[1], bytes: Uint8Array): void {
    const { nats } = this.#options;
    if (this.#closed || !connectionUp(nats)) return; // (It is asked for again.)
    const answer = new Uint8Array(ANSWER_BYTES + bytes.length);
    answer.set(bytes, ANSWER_BYTES);
    writeAnswer(answer, status, bytes.length, checksum(answer.subarray(ANSWER_BYTES)));
    nats.publish(reply as string, answer);
  }

  // ---- over direct connections

  /** Begins to listen when somebody asks where to. */
  #listen(): Promise<BlobPlace> {
    this.#listening ??= this.#open();
    return this.#listening;
  }

  async #open(): Promise<BlobPlace> {
    const { nats, job, owner, listen } = this.#options;
    const secret = () => this.#secrets[0] ?? '';
    const terms: LinkTerms = {
      ...blobTerms(job, owner),
      get secret() {
        return secret();
      },
    };
    const listener = () => {
      const made = new DirectListener({
        terms,
        rank: 1,
        admit: (_peer, purpose) =>
          purpose !== 'blob' || this.#closed || this.#connections.size >= MAX_CONNECTIONS
            ? 'blobs are not served like this, or not to more'
            : null,
        accepted: (_peer, _purpose, socket, rest) => this.#serve(socket, rest),
      });
      this.#listeners.push(made);
      return made;
    };
    let tcp: BlobPlace['tcp'] = null;
    if (listen !== null) {
      const { host = '0.0.0.0', port = 0 } = listen ?? {};
      const bound = (await listener().listen({ host, port })) as { port: number };
      const any = host === '0.0.0.0' || host === '::';
      tcp = { host: any ? ownAddress(nats.info?.client_ip) : host, port: bound.port };
    }
    const unix = process.platform === 'win32' ? null : socketPath();
    if (unix !== null) await listener().listen({ path: unix });
    return { hostId: hostId(), tcp, unix };
  }

  /** Requests come behind their length in two bytes, and are answered in turn. */
  #serve(socket: Socket, rest: Uint8Array): void {
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    socket.unref();
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    let unread = Buffer.from(rest);
    let serving = false;
    const next = async () => {
      if (serving) return;
      serving = true;
      while (!socket.destroyed && unread.length >= 2 && unread.length >= 2 + unread.readUInt16BE(0)) {
        const end = 2 + unread.readUInt16BE(0);
        const packed = Uint8Array.from(unread.subarray(2, end));
        unread = unread.subarray(end);
        await this.#give(socket, packed);
      }
      serving = false;
    };
    socket.on('data', (bytes: Buffer) => {
      unread = Buffer.concat([unread, bytes]);
      // (One request waits for another's answer; nobody who keeps to that sends more.)
      if (unread.length > 64 * MAX_REQUEST_BYTES) socket.destroy();
      else void next();
    });
    void next();
  }

  async #give(socket: Socket, packed: Uint8Array): Promise<void> {
    const found = unpackRequest(packed, this.#options.owner, this.#secrets);
    if (!found?.known || found.request.blob === null) {
      socket.destroy();
      return;
    }
    const { blob, offset, length } = found.request;
    for (let at = 0; at < length && !socket.destroyed; ) {
      const piece = await this.#shelf.read({ blob, offset: offset + at, length: length - at }, PIECE_BYTES);
      const bytes = 'bytes' in piece ? piece.bytes : text(piece.why);
      const head = Buffer.alloc(ANSWER_BYTES);
      writeAnswer(head, piece.status, bytes.length, checksum(bytes));
      socket.cork();
      socket.write(head);
      const left = new Promise<void>((resolve) => socket.write(bytes, () => resolve()));
      socket.uncork();
      if (!('bytes' in piece)) return;
      void left.then(piece.release);
      at += bytes.length;
      // One piece may wait in the socket while the next is read.
      if (socket.writableLength > PIECE_BYTES) await left;
    }
  }
}

/** What both ends of a direct connection for blobs agree on, besides the secret. */
export const blobTerms = (job: string, owner: string): Omit<LinkTerms, 'secret'> => ({
  job: `${job}: blobs of ${owner}`,
  generation: 0,
  world: 2,
  credits: 0,
});

const text = (words: string): Uint8Array => new TextEncoder().encode(words.slice(0, 1024));
