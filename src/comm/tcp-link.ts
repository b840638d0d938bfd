import type { Socket } from 'node:net';
import type { HostTensor } from '../tensor/index.ts';
import { CommClosed } from './errors.ts';
import { type FaultCounts, FrameDecoder } from './frame.ts';
import { FrameReader, type FrameSink } from './frame-reader.ts';
import { FrameWriter, reclaim } from './frame-writer.ts';
import type { Link, LinkInbox } from './linked-transport.ts';

/** Messages up to this many bytes are copied into one write: cheaper than a vector of small pieces. */
const SMALL_BYTES = 16_384;
/** With more than this waiting in the socket, `post` does not say that the next may come before it has left. */
const QUEUE_BYTES = 32 * 2 ** 20;
/** How long a good-bye may take, in milliseconds. */
const LINGER_MS = 2000;
/** A link that is watched says something this often, in milliseconds, and is never called silent before `PATIENCE_MS`. */
const BEAT_MS = 1000;
const PATIENCE_MS = 3000;

/** What a link needs to know of the transport that it belongs to. */
export interface TcpLinkSetting {
  readonly job: string;
  readonly generation: number;
  readonly rank: number;
  readonly peer: number;
  readonly maxDataBytes: number;
  readonly checksum: boolean | 'auto';
  readonly dropped: FaultCounts;
  /**
   * Silence of the peer after which the link counts as broken, in milliseconds, at least 3 s: both ends say something every
   * second. A partition tells nobody, and TCP itself gives up after minutes. Null: not watched, which is right for a thread
   * that also computes. Watched at both ends or at none.
   */
  readonly silenceMs?: number | null;
}

/**
 * A direct link: a socket for what this rank sends (the peer dialled it) and one for what it receives (dialled here,
 * because only a socket that dials can be told by Node where to put what it reads).
 */
export class TcpLink implements Link {
  readonly #setting: TcpLinkSetting;
  readonly #inbox: LinkInbox;
  readonly #writer: FrameWriter;
  readonly #reader: FrameReader;
  #out: Socket | null = null;
  #in: Socket | null = null;
  #held = false;
  #gathering = false;
  #closed: string | null = null;
  #beat: ReturnType<typeof setInterval> | null = null;
  #heard = 0;
  #ticked = 0;
  #said = false;

  constructor(setting: TcpLinkSetting, inbox: LinkInbox) {
    const { job, generation, rank, peer, maxDataBytes, dropped } = setting;
    this.#setting = setting;
    this.#inbox = inbox;
    this.#writer = new FrameWriter({ job, generation, from: rank, to: peer }, true);
    const sink: FrameSink = {
      message: inbox.message,
      // Nothing is given back: a sign of life.
      credit: (channel, count) => (count === 0 ? undefined : inbox.credit(channel, count)),
      goodbye: (reason) => {
        inbox.sendingEnded(reason);
        inbox.receivingEnded(reason);
      },
      fault: (fault, detail) => {
        dropped[fault] += 1;
        this.#broken(`${fault}: ${detail}`);
      },
    };
    this.#reader = new FrameReader(new FrameDecoder({ job, generation, from: peer, to: rank }, maxDataBytes), sink);
  }

  get connected(): boolean {
    return this.#out !== null && this.#in !== null;
  }

  get canSend(): boolean {
    return this.#out !== null;
  }

  /** The socket that the peer dialled. */
  attachOut(socket: Socket): void {
    this.#out = socket;
    this.#writer.checked = this.#setting.checksum === 'auto' ? crossesNetwork(socket) : this.#setting.checksum;
    this.#hold(socket);
    // A peer that goes away ends this socket; its own words, if it had time for any, come on the other one.
    socket.on('data', () => this.#broken('it talks where it should listen'));
    socket.on('error', (error) => this.#inbox.sendingEnded(`the connection broke: ${error.message}`));
    socket.on('close', () => {
      this.#inbox.sendingEnded('the connection ended');
      this.#in?.end();
    });
    this.#watch();
  }

  /** The socket that was dialled here; `first` are bytes that came before. */
  attachIn(socket: Socket, first: Uint8Array): void {
    this.#in = socket;
    this.#hold(socket);
    // Who says nothing more listens no more either: a peer ends with a good-bye, or it was killed or cut off.
    const over = (reason: string) => {
      if (this.#beat) clearInterval(this.#beat);
      this.#inbox.receivingEnded(reason);
      this.#inbox.sendingEnded(reason);
    };
    socket.on('error', (error) => over(`the connection broke: ${error.message}`));
    socket.on('close', () => {
      over('the connection ended');
      this.#out?.end();
    });
    this.#reader.write(first);
    this.#watch();
  }

  /** Where bytes that come on the dialled socket belong, for `onread`. */
  target(): Uint8Array {
    return this.#reader.target();
  }

  /** Bytes came where `target` said. */
  advance(count: number): void {
    this.#said = true;
    this.#reader.advance(count);
  }

  /** Bytes came, in memory of their own (TLS). */
  arrived(bytes: Uint8Array): void {
    this.#said = true;
    this.#reader.write(bytes);
  }

  post(tag: string, tensors: readonly HostTensor[], transfer: boolean): Promise<void> | undefined {
    const socket = this.#out;
    if (this.#closed !== null || !socket)
      throw new CommClosed(this.#setting.rank, this.#setting.peer, tag, this.#closed ?? 'never connected');
    const pieces = this.#writer.message(tag, tensors);
    let bytes = 0;
    for (const piece of pieces) bytes += piece.length;
    this.#gather(socket);
    const small = bytes <= SMALL_BYTES;
    if (small && socket.writableLength <= QUEUE_BYTES) {
      socket.write(Buffer.concat(pieces, bytes));
      if (transfer) reclaim(tensors);
      return undefined;
    }
    const leaving = new Promise<void>((resolve, reject) => {
      pieces.forEach((piece, i) => {
        if (i < pieces.length - 1) socket.write(piece);
        else
          socket.write(piece, (error) => {
            if (!error) resolve();
            else
              reject(
                new CommClosed(this.#setting.rank, this.#setting.peer, tag, `the connection broke: ${error.message}`),
              );
          });
      });
    });
    if (!transfer) return leaving;
    const left = leaving.then(() => reclaim(tensors));
    if (socket.writableLength > QUEUE_BYTES) return left;
    // The sender goes on; if the link breaks, its next wait says so.
    left.catch(() => undefined);
    return undefined;
  }

  giveCredit(channel: string, count: number): void {
    if (this.#closed !== null || !this.#out?.writable) return;
    this.#gather(this.#out);
    this.#out.write(this.#writer.credit(channel, count));
  }

  poll(): void {}

  hold(on: boolean): void {
    this.#held = on;
    if (this.#out) this.#hold(this.#out);
    if (this.#in) this.#hold(this.#in);
  }

  async close(reason: string, how: 'drain' | 'abort'): Promise<void> {
    if (this.#closed !== null) return;
    this.#closed = reason;
    if (this.#beat) clearInterval(this.#beat);
    const sockets = [this.#out, this.#in].filter((socket) => socket !== null);
    if (how === 'drain') {
      this.hold(true);
      if (this.#out?.writable) this.#out.write(this.#writer.close(reason));
      await Promise.all(sockets.map(ended));
    }
    for (const socket of sockets) socket.destroy();
  }

  /** Once both sockets are there: says something every second, and listens. */
  #watch(): void {
    const { silenceMs, peer } = this.#setting;
    if (!silenceMs || !this.connected || this.#closed !== null || this.#beat) return;
    this.#heard = this.#ticked = performance.now();
    this.#beat = setInterval(() => {
      const now = performance.now();
      // After a pause of this process's own, what came meanwhile has not been read yet.
      if (this.#said || now - this.#ticked > 2 * BEAT_MS) this.#heard = now;
      this.#said = false;
      this.#ticked = now;
      if (now - this.#heard > Math.max(silenceMs, PATIENCE_MS))
        return this.#broken(`nothing was heard of rank ${peer} for ${Math.round(now - this.#heard)} ms`);
      if (this.#out?.writable && this.#out.writableLength === 0) this.#out.write(this.#writer.credit('', 0));
    }, BEAT_MS).unref();
  }

  /** Writes leave together when all that can run now has run: one system call for what a loop of sends has to say. */
  #gather(socket: Socket): void {
    if (this.#gathering) return;
    this.#gathering = true;
    socket.cork();
    process.nextTick(() => {
      this.#gathering = false;
      socket.uncork();
    });
  }

  #hold(socket: Socket): void {
    if (this.#held) socket.ref();
    else socket.unref();
  }

  #broken(reason: string): void {
    this.#inbox.sendingEnded(reason);
    this.#inbox.receivingEnded(reason);
    void this.close(reason, 'abort');
  }
}

/** Whether a connection leaves this machine without a checksum worth the name (TLS authenticates every record). */
function crossesNetwork(socket: Socket): boolean {
  const { remoteAddress } = socket;
  return remoteAddress !== undefined && !('encrypted' in socket) && !/^(127\.|::1$|::ffff:127\.)/.test(remoteAddress);
}

/** Ends a socket and waits until all has left and the other end has ended too, for a while. */
export function ended(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) return resolve();
    const timer = setTimeout(resolve, LINGER_MS);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
    socket.end();
  });
}
