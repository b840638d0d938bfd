import type { Socket } from 'node:net';
import type { HostTensor } from '../tensor/index.ts';
import { CommClosed } from './errors.ts';
import { FrameDecoder } from './frame.ts';
import { FrameReader } from './frame-reader.ts';
import { FrameWriter, reclaim } from './frame-writer.ts';
import { createSharedMemory, openSharedMemory, type SharedMapping } from './host-memory.ts';
import { RingReader, RingWriter, ringBytes } from './host-ring.ts';
import type { Link, LinkInbox } from './linked-transport.ts';
import { within } from './nats-link.ts';
import { ended, type TcpLinkSetting } from './tcp-link.ts';

/** Room of a ring in bytes: what is on its way from one process to another stays in the cache of the CPU. */
const CAPACITY = 2 ** 21;
/** Messages up to this many bytes are copied if they have to wait. */
const SMALL_BYTES = 16_384;
/** With more than this waiting for room, `post` does not say that the next may come before it was copied. */
const QUEUE_BYTES = 32 * 2 ** 20;
/** How long a good-bye may take, in milliseconds. */
const LINGER_MS = 2000;

/** What is said on the socket: both have mapped the memory, whose file is gone; look into it. */
const MAPPED = 0x4d;
const BELL = Buffer.from([0x42]);

/**
 * A link over shared memory. Each direction has a ring, made by the rank that receives, and a unix socket, dialled by the
 * same one, which carries the name of the ring, afterwards a byte when the other side sleeps and there is something to do;
 * and by ending it says that the other process has gone.
 */
export class HostLink implements Link {
  readonly #setting: TcpLinkSetting;
  readonly #inbox: LinkInbox;
  readonly #writer: FrameWriter;
  readonly #frames: FrameReader;
  readonly #doorbell = Buffer.alloc(256);
  #out: Socket | null = null;
  #in: Socket | null = null;
  #outMemory: SharedMapping | null = null;
  #inMemory: SharedMapping | null = null;
  #sender: RingWriter | null = null;
  #receiver: RingReader | null = null;
  readonly #changed: () => void;
  #failure: string | null = null;
  #mapped = false;
  #held = false;
  #over = false;
  #closed: string | null = null;

  /** `changed`: this rank can send now, or it has failed. */
  constructor(setting: TcpLinkSetting, inbox: LinkInbox, changed: () => void) {
    this.#changed = changed;
    const { job, generation, rank, peer, maxDataBytes, dropped } = setting;
    this.#setting = setting;
    this.#inbox = inbox;
    // (No checksums of data: it does not leave the memory of this machine.)
    this.#writer = new FrameWriter({ job, generation, from: rank, to: peer }, false);
    this.#frames = new FrameReader(new FrameDecoder({ job, generation, from: peer, to: rank }, maxDataBytes), {
      message: inbox.message,
      credit: inbox.credit,
      goodbye: (reason) => {
        inbox.sendingEnded(reason);
        inbox.receivingEnded(reason);
      },
      fault: (fault, detail) => {
        dropped[fault] += 1;
        this.#broken(`${fault}: ${detail}`);
      },
    });
  }

  get canSend(): boolean {
    return this.#sender !== null;
  }

  /** Both directions have their memory, and its files are gone. */
  get connected(): boolean {
    return this.#sender !== null && this.#mapped;
  }

  /** Why there is no link, where that is so. */
  get failure(): string | null {
    return this.#failure;
  }

  /** The socket that the peer dialled; it says first which memory to map. */
  attachOut(socket: Socket, rest: Uint8Array): void {
    this.#out = socket;
    this.#hold(socket);
    let name = '';
    const arrived = (bytes: Uint8Array) => {
      if (this.#sender) return this.#sender.pump();
      name += Buffer.from(bytes).toString('latin1');
      const end = name.indexOf('\n');
      if (end < 0 && name.length < 256) return;
      socket.off('data', arrived);
      void this.#map(name.slice(0, Math.max(0, end)), socket);
    };
    socket.on('data', arrived);
    socket.on('error', (error) => this.#sendingEnded(`the connection broke: ${error.message}`));
    socket.on('close', () => {
      this.#sendingEnded('the connection ended');
      this.#in?.end();
    });
    if (rest.length > 0) arrived(rest);
  }

  /** The socket that was dialled here. */
  attachIn(socket: Socket, rest: Uint8Array): void {
    this.#in = socket;
    this.#hold(socket);
    const over = (reason: string) => {
      // What the peer wrote before it went is still there.
      this.#drain();
      this.#receivingEnded(reason);
    };
    socket.on('error', (error) => over(`the connection broke: ${error.message}`));
    socket.on('close', () => {
      over('the connection ended');
      this.#out?.end();
    });
    void this.#offer(socket);
    if (rest.length > 0) this.#rung(rest);
  }

  target(): Uint8Array {
    return this.#doorbell;
  }

  advance(count: number): void {
    this.#rung(this.#doorbell.subarray(0, count));
  }

  arrived(bytes: Uint8Array): void {
    this.#rung(bytes);
  }

  post(tag: string, tensors: readonly HostTensor[], transfer: boolean): Promise<void> | undefined {
    const sender = this.#sender;
    if (this.#closed !== null || !sender) throw this.#gone(tag, this.#closed ?? 'never connected');
    let pieces = this.#writer.message(tag, tensors);
    let bytes = 0;
    for (const piece of pieces) bytes += piece.length;
    const copied = sender.queuedBytes > 0 && bytes <= SMALL_BYTES && sender.queuedBytes <= QUEUE_BYTES;
    if (copied) pieces = [Buffer.concat(pieces, bytes)];
    const written = sender.write(pieces);
    if (!written || copied) {
      written?.catch(() => undefined); // (Who waits has been told that the link is gone.)
      if (transfer) reclaim(tensors);
      return undefined;
    }
    const left = written.then(
      () => {
        if (transfer) reclaim(tensors);
      },
      (error: Error) => {
        throw this.#gone(tag, error.message);
      },
    );
    if (!transfer || sender.queuedBytes > QUEUE_BYTES) return left;
    // The sender goes on; if the link breaks, its next wait says so.
    left.catch(() => undefined);
    return undefined;
  }

  giveCredit(channel: string, count: number): void {
    if (this.#closed === null) this.#append(this.#writer.credit(channel, count));
  }

  poll(): void {
    this.#receiver?.pump();
  }

  hold(on: boolean): void {
    this.#held = on;
    if (this.#out) this.#hold(this.#out);
    if (this.#in) this.#hold(this.#in);
  }

  async close(reason: string, how: 'drain' | 'abort'): Promise<void> {
    if (this.#closed !== null) return;
    const sockets = [this.#out, this.#in].filter((socket) => socket !== null);
    if (how === 'drain') {
      this.hold(true);
      this.#append(this.#writer.close(reason));
      this.#closed = reason;
      if (this.#sender) await within(this.#sender.drained(), LINGER_MS);
      await Promise.all(sockets.map(ended));
    }
    this.#closed = reason;
    this.#receivingEnded(reason);
    this.#sendingEnded(reason);
    for (const socket of sockets) socket.destroy();
  }

  /** Makes the memory that this rank reads, and tells its name; the peer's first byte says that it has mapped it. */
  async #offer(socket: Socket): Promise<void> {
    try {
      const memory = await createSharedMemory(ringBytes(CAPACITY));
      if (socket.destroyed || this.#over) {
        memory.unlink();
        memory.unmap();
        return;
      }
      this.#inMemory = memory;
      this.#receiver = new RingReader(memory.buffer, {
        take: (bytes) => this.#frames.write(bytes),
        ringBell: () => this.#ring(socket),
        broken: (reason) => this.#broken(reason),
      });
      socket.write(`${memory.name}\n`);
    } catch (error) {
      this.#broken((error as Error).message);
    }
  }

  #rung(bytes: Uint8Array): void {
    // (The first byte is `MAPPED`, later ones are bells; whatever they are, there may be something in the ring.)
    if (!this.#mapped && bytes.includes(MAPPED)) {
      this.#mapped = true;
      this.#changed();
    }
    this.#receiver?.pump();
  }

  async #map(name: string, socket: Socket): Promise<void> {
    try {
      const memory = await openSharedMemory(name, ringBytes(CAPACITY));
      // Here and not where it was made: that process may be killed before it hears that its file is mapped.
      memory.unlink();
      if (socket.destroyed || this.#closed !== null) {
        memory.unmap();
        return;
      }
      this.#outMemory = memory;
      const sender = new RingWriter(memory.buffer, () => this.#ring(socket));
      this.#sender = sender;
      socket.on('data', () => sender.pump());
      socket.write(Buffer.from([MAPPED]));
      this.#changed();
    } catch (error) {
      this.#broken((error as Error).message);
    }
  }

  /** Takes all that is in the ring now, in however many steps: nobody writes to it any more. */
  #drain(): void {
    while (this.#receiver && !this.#receiver.pump());
  }

  #append(frame: Uint8Array): void {
    // A failure means that the link has ended, which everybody who waits has been told.
    this.#sender?.write([frame])?.catch(() => undefined);
  }

  #ring(socket: Socket): void {
    if (socket.writable) socket.write(BELL);
  }

  #hold(socket: Socket): void {
    if (this.#held) socket.ref();
    else socket.unref();
  }

  /** Who says nothing more listens no more either: a peer ends with a good-bye, or it was killed. */
  #receivingEnded(reason: string): void {
    this.#over = true;
    this.#receiver?.end();
    this.#receiver = null;
    this.#inMemory?.unlink();
    unmapLater(this.#inMemory);
    this.#inMemory = null;
    this.#inbox.receivingEnded(reason);
    this.#inbox.sendingEnded(reason);
  }

  #sendingEnded(reason: string): void {
    this.#sender?.end(new Error(reason));
    unmapLater(this.#outMemory);
    this.#outMemory = null;
    this.#inbox.sendingEnded(reason);
  }

  #broken(reason: string): void {
    this.#failure ??= reason;
    this.#changed();
    this.#inbox.sendingEnded(reason);
    this.#inbox.receivingEnded(reason);
    void this.close(reason, 'abort');
  }

  #gone(tag: string, reason: string): CommClosed {
    return new CommClosed(this.#setting.rank, this.#setting.peer, tag, reason);
  }
}

/** Not at once: somebody further up the stack may be reading from it, or writing to it. */
function unmapLater(memory: SharedMapping | null): void {
  if (memory) setImmediate(() => memory.unmap());
}
