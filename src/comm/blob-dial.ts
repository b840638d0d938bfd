import type { Socket } from 'node:net';
import { blobTerms } from './blob-server.ts';
import { ANSWER_BYTES, BlobGone, type BlobPlace, packRequest, readAnswer } from './blob-wire.ts';
import { abortable } from './child-signal.ts';
import { dialPeer, type TcpAddress } from './direct.ts';
import { checksum } from './frame.ts';
import { hostId } from './host-id.ts';

/** How long a direct connection may take to stand, in milliseconds. */
const DIAL_MS = 1500;
/** How long nothing may arrive, in milliseconds, before the rest is fetched another way. */
const STALL_MS = 5000;
/** Connections that nobody uses are kept for so long, in milliseconds: ranges are fetched one after another. */
const IDLE_MS = 5000;
/** Connections to one server. */
const MAX_CONNECTIONS = 4;

/** A direct way does not work (now): NATS takes its place. */
export class NoDirectWay extends Error {
  override readonly name = 'NoDirectWay';
}

interface Fetch {
  readonly into: Uint8Array;
  /** Bytes that have come and are right. */
  at: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  timer: ReturnType<typeof setTimeout>;
}

/** The piece that is coming: where it goes, its checksum; or the words of an error. */
interface Piece {
  readonly bytes: Uint8Array;
  readonly crc: number;
  /** Null for data. */
  readonly error: string | null;
}

/** The direct connections to one server of blobs. */
export class BlobDialler {
  readonly #job: string;
  readonly #owner: string;
  readonly #address: TcpAddress;
  readonly #idle: Line[] = [];
  #open = 0;
  readonly #waiting: (() => void)[] = [];

  /** @throws NoDirectWay if there is no address for this process to dial */
  constructor(job: string, owner: string, place: BlobPlace) {
    this.#job = job;
    this.#owner = owner;
    const near = place.hostId === hostId() && place.unix !== null;
    if (!near && !place.tcp) throw new NoDirectWay(`${owner} told no address`);
    this.#address = near ? { path: place.unix as string } : (place.tcp as { host: string; port: number });
  }

  /**
   * Fetches a range into memory; `moved` is told how many bytes are there, so that somebody else can go on.
   * @throws BlobGone; NoDirectWay if the connection fails; the signal's reason
   */
  async fetch(
    range: { readonly blob: string; readonly offset: number; readonly into: Uint8Array },
    secret: string | Uint8Array,
    signal: AbortSignal,
    moved: (bytes: number) => void,
  ): Promise<void> {
    const line = await this.#line(secret, signal);
    const aborted = () => line.end(signal.reason);
    signal.addEventListener('abort', aborted, { once: true });
    try {
      if (signal.aborted) throw signal.reason;
      await line.fetch(range, this.#owner, secret, moved);
    } finally {
      signal.removeEventListener('abort', aborted);
      this.#free(line);
    }
  }

  close(): void {
    for (const line of this.#idle.splice(0)) line.end(new NoDirectWay('closed here'));
  }

  async #line(secret: string | Uint8Array, signal: AbortSignal): Promise<Line> {
    for (;;) {
      const idle = this.#idle.pop();
      if (idle?.usable) return idle;
      if (idle) continue;
      if (this.#open < MAX_CONNECTIONS) break;
      let free: () => void = () => undefined;
      const wait = new Promise<void>((resolve) => {
        free = resolve;
        this.#waiting.push(free);
      });
      try {
        await abortable(wait, signal);
      } catch (error) {
        const at = this.#waiting.indexOf(free);
        if (at >= 0) this.#waiting.splice(at, 1);
        else this.#waiting.shift()?.(); // (It was this one's turn.)
        throw error;
      }
    }
    this.#open += 1;
    const line = new Line(() => {
      this.#open -= 1;
      this.#waiting.shift()?.();
    });
    try {
      await dialPeer({
        terms: { ...blobTerms(this.#job, this.#owner), secret },
        rank: 0,
        peer: 1,
        address: this.#address,
        purpose: 'blob',
        until: performance.now() + DIAL_MS,
        stopped: () => signal.aborted,
        reader: line,
        linked: (socket) => line.attach(socket),
      });
    } catch (error) {
      line.end(error as Error);
      if (signal.aborted) throw signal.reason;
      throw new NoDirectWay((error as Error).message, { cause: error });
    }
    return line;
  }

  #free(line: Line): void {
    if (!line.usable) return;
    line.rest(() => {
      const at = this.#idle.indexOf(line);
      if (at >= 0) this.#idle.splice(at, 1);
    });
    this.#idle.push(line);
    this.#waiting.shift()?.();
  }
}

/** One connection: a range at a time. Data is read straight into where it belongs. */
class Line {
  readonly #ended: () => void;
  readonly #head = new Uint8Array(ANSWER_BYTES);
  #headFilled = 0;
  #socket: Socket | null = null;
  #fetch: Fetch | null = null;
  #piece: Piece | null = null;
  #filled = 0;
  #moved: (bytes: number) => void = () => undefined;
  #idle: ReturnType<typeof setTimeout> | null = null;
  #over = false;

  constructor(ended: () => void) {
    this.#ended = ended;
  }

  get usable(): boolean {
    return !this.#over && this.#socket !== null;
  }

  attach(socket: Socket): void {
    this.#socket = socket;
    socket.unref();
    socket.on('error', (error) => this.end(new NoDirectWay(`the connection broke: ${error.message}`)));
    socket.on('close', () => this.end(new NoDirectWay('the connection ended')));
  }

  fetch(
    { blob, offset, into }: { readonly blob: string; readonly offset: number; readonly into: Uint8Array },
    owner: string,
    secret: string | Uint8Array,
    moved: (bytes: number) => void,
  ): Promise<void> {
    if (this.#idle) clearTimeout(this.#idle);
    const socket = this.#socket as Socket;
    socket.ref();
    this.#moved = moved;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.end(new NoDirectWay(`nothing came for ${STALL_MS} ms`)), STALL_MS);
      this.#fetch = { into, at: 0, resolve, reject, timer };
      const packed = packRequest({ blob, offset, length: into.length }, owner, secret);
      const length = Buffer.alloc(2);
      length.writeUInt16BE(packed.length);
      socket.write(Buffer.concat([length, packed]));
    });
  }

  /** Waits for its next use, for a while. */
  rest(over: () => void): void {
    this.#socket?.unref();
    this.#idle = setTimeout(() => {
      over();
      this.end(new NoDirectWay('not used for a while'));
    }, IDLE_MS);
    this.#idle.unref();
  }

  end(error: Error): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#idle) clearTimeout(this.#idle);
    this.#socket?.destroy();
    const fetch = this.#fetch;
    this.#fetch = null;
    if (fetch) {
      clearTimeout(fetch.timer);
      fetch.reject(error);
    }
    this.#ended();
  }

  target(): Uint8Array {
    return this.#piece ? this.#piece.bytes.subarray(this.#filled) : this.#head.subarray(this.#headFilled);
  }

  advance(count: number): void {
    const fetch = this.#fetch;
    if (!fetch) {
      this.end(new NoDirectWay('bytes came that nobody has asked for'));
      return;
    }
    fetch.timer.refresh();
    if (this.#piece) {
      this.#filled += count;
      if (this.#filled === this.#piece.bytes.length) this.#pieceArrived(fetch);
      return;
    }
    this.#headFilled += count;
    if (this.#headFilled < ANSWER_BYTES) return;
    this.#headFilled = 0;
    const answer = readAnswer(this.#head);
    const left = fetch.into.length - fetch.at;
    if (!answer || answer.length === 0 || answer.length > (answer.status === 'ok' ? left : 4096)) {
      this.end(new NoDirectWay('what came is no answer'));
      return;
    }
    const ok = answer.status === 'ok';
    const bytes = ok ? fetch.into.subarray(fetch.at, fetch.at + answer.length) : new Uint8Array(answer.length);
    this.#piece = { bytes, crc: answer.crc, error: ok ? null : answer.status };
    this.#filled = 0;
  }

  arrived(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && !this.#over; ) {
      const target = this.target();
      const count = Math.min(target.length, bytes.length - at);
      target.set(bytes.subarray(at, at + count));
      this.advance(count);
      at += count;
    }
  }

  #pieceArrived(fetch: Fetch): void {
    const { bytes, crc, error } = this.#piece as Piece;
    this.#piece = null;
    // (Also where its memory was used for something else while it left.)
    if (checksum(bytes) !== crc) {
      this.end(new NoDirectWay('a piece does not have its checksum'));
      return;
    }
    if (error === null) {
      fetch.at += bytes.length;
      this.#moved(fetch.at);
      if (fetch.at < fetch.into.length) return;
    }
    clearTimeout(fetch.timer);
    this.#fetch = null;
    const words = new TextDecoder().decode(error === null ? new Uint8Array(0) : bytes);
    if (error === null) fetch.resolve();
    else fetch.reject(error === 'gone' || error === 'range' ? new BlobGone(words) : new NoDirectWay(words));
  }
}
