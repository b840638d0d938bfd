import type { NatsConnection } from '@nats-io/transport-node';
import type { HostTensor } from '../tensor/index.ts';
import { CommClosed } from './errors.ts';
import {
  checksum,
  type FaultCounts,
  FIXED_HEADER_BYTES,
  FrameDecoder,
  FrameEncoder,
  type FrameFields,
} from './frame.ts';
import { FrameReader } from './frame-reader.ts';
import { FrameWriter, reclaim } from './frame-writer.ts';
import type { Link, LinkInbox } from './linked-transport.ts';
import { FramePublisher } from './nats-inside.ts';
import { StreamReceiver } from './stream-receiver.ts';
import { type StreamSegment, StreamSender } from './stream-sender.ts';

/** What all links over a connection share. */
export interface NatsSetting {
  readonly job: string;
  readonly generation: number;
  readonly rank: number;
  /** A random number that tells this transport from one that the rank may have had before. */
  readonly life: number;
  readonly maxDataBytes: number;
  readonly windowBytes: number;
  readonly chunkBytes: number;
  readonly probeMs: number;
  readonly lingerMs: number;
  readonly dropped: FaultCounts;
  readonly connection: NatsConnection;
  readonly subject: (from: number | '*', to: number) => string;
  /** Whether the connection stands. */
  readonly state: { readonly up: boolean };
}

/** What a rank has confirmed cannot be sent again to one that has forgotten it. */
const RESTARTED = 'it was restarted within the generation';

/** How long a receiver may wait before it confirms a little, in milliseconds. */
const CONFIRM_MS = 20;

/**
 * Two reliable streams between this rank and another, one a direction. A NATS message is a frame of its own: a segment of
 * a stream, with a checksum that covers everything in it, or a word about streams.
 */
export class NatsLink implements Link {
  readonly #setting: NatsSetting;
  readonly #peer: number;
  readonly #inbox: LinkInbox;
  readonly #publisher: FramePublisher;
  readonly #encoder: FrameEncoder;
  readonly #decoder: FrameDecoder;
  readonly #writer: FrameWriter;
  readonly #sender: StreamSender;
  readonly #receiver: StreamReceiver;
  #closed: string | null = null;
  #peerClosed = false;
  #peerLife: number | null = null;
  readonly #heard: (() => void)[] = [];

  constructor(setting: NatsSetting, peer: number, inbox: LinkInbox) {
    const { job, generation, rank, windowBytes, dropped, state } = setting;
    const outward = { job, generation, from: rank, to: peer };
    const inward = { job, generation, from: peer, to: rank };
    this.#setting = setting;
    this.#peer = peer;
    this.#inbox = inbox;
    this.#publisher = new FramePublisher(setting.connection, setting.subject(rank, peer));
    this.#encoder = new FrameEncoder(outward);
    this.#decoder = new FrameDecoder(inward, windowBytes);
    this.#writer = new FrameWriter(outward, false);
    const reader = new FrameReader(new FrameDecoder(inward, setting.maxDataBytes), {
      message: inbox.message,
      credit: inbox.credit,
      goodbye: (reason) => {
        this.#peerClosed = true;
        this.#end(reason);
      },
      fault: (fault, detail) => {
        dropped[fault] += 1;
        this.#end(`${fault}: ${detail}`);
      },
    });
    this.#receiver = new StreamReceiver(
      {
        bytes: (bytes) => reader.write(bytes),
        confirm: (sequence, lost) => this.#say({ kind: lost ? 'gap' : 'ack', sequence }),
      },
      { windowBytes, confirmMs: CONFIRM_MS },
    );
    this.#sender = new StreamSender(
      {
        headBytes: this.#publisher.headBytes + FIXED_HEADER_BYTES,
        tailBytes: this.#publisher.tailBytes,
        maxSegmentBytes: () => this.#maxSegmentBytes(),
        get up() {
          return state.up;
        },
        segment: (segment) => this.#segment(segment),
        probe: (sequence) => this.#say({ kind: 'probe', sequence }),
      },
      { windowBytes, probeMs: setting.probeMs },
    );
  }

  /** Bytes that were sent again. */
  get resentBytes(): number {
    return this.#sender.resentBytes;
  }

  /** Whether the peer has said anything yet. */
  get heard(): boolean {
    return this.#peerLife !== null;
  }

  /** Resolves when the peer says something for the first time. */
  whenHeard(): Promise<void> {
    return this.heard ? Promise.resolve() : new Promise((resolve) => this.#heard.push(resolve));
  }

  /** Tells the peer that this rank listens from now on. */
  hello(): void {
    this.#say({ kind: 'hello' });
  }

  /** The connection is back, perhaps to another server. */
  resume(): void {
    this.#sender.resend();
    this.#receiver.resume();
  }

  /** The connection is gone for good. */
  lost(reason: string): void {
    if (this.#closed === null) this.#end(reason);
  }

  /** A NATS message came on the subject from the peer to this rank. Whatever is wrong with it, it is dropped and counted. */
  arrived(message: Uint8Array): void {
    const { dropped } = this.#setting;
    const frame = this.#decoder.decode(message);
    if (typeof frame === 'string') {
      dropped[frame] += 1;
      return;
    }
    const { kind, sequence, value, headerBytes, dataBytes, dataChecksum } = frame;
    const data = message.subarray(headerBytes);
    if (data.length !== dataBytes || (dataBytes > 0 && dataChecksum !== checksum(data))) {
      dropped.corrupt += 1;
      return;
    }
    if (kind === 'data' || kind === 'credit' || kind === 'close') {
      dropped.corrupt += 1;
      return;
    }
    if (this.#peerLife === null) {
      this.#peerLife = value;
      for (const resolve of this.#heard.splice(0)) resolve();
      // (What this rank has said so far may have come before the peer listened.)
      if (kind === 'hello') this.hello();
    }
    if (value !== this.#peerLife) {
      this.#end(RESTARTED);
      return;
    }
    switch (kind) {
      case 'segment':
        this.#receiver.segment(sequence, data);
        return;
      case 'probe':
        this.#receiver.probe(sequence);
        return;
      case 'ack':
      case 'gap':
        if (!this.#sender.confirm(sequence, kind === 'gap')) this.#end('it confirms what was never sent to it');
        return;
      case 'hello':
        this.#sender.resend();
    }
  }

  post(tag: string, tensors: readonly HostTensor[], transfer: boolean): Promise<void> | undefined {
    if (this.#closed !== null) throw new CommClosed(this.#setting.rank, this.#peer, tag, this.#closed);
    const copied = () => {
      if (transfer) reclaim(tensors);
    };
    const written = this.#sender.write(this.#writer.message(tag, tensors));
    if (written)
      return written.then(copied, (error: Error) => {
        throw new CommClosed(this.#setting.rank, this.#peer, tag, error.message);
      });
    copied();
    return undefined;
  }

  giveCredit(channel: string, count: number): void {
    if (this.#closed === null) this.#append(this.#writer.credit(channel, count));
  }

  poll(): void {}

  /** (A NATS connection keeps its thread alive until it is closed.) */
  hold(): void {}

  async close(reason: string, how: 'drain' | 'abort'): Promise<void> {
    if (this.#closed === null && how === 'drain' && !this.#peerClosed) {
      this.#append(this.#writer.close(reason));
      this.#closed = reason;
      await within(this.#sender.drained(), this.#setting.lingerMs);
    }
    this.#closed ??= reason;
    this.#sender.end(new Error(reason));
    this.#receiver.end();
  }

  #append(frame: Uint8Array): void {
    // A failure means that the link has ended, which everybody who waits has been told.
    this.#sender.write([frame])?.catch(() => undefined);
  }

  /** What fits into a message of the server that the connection is to at the moment. */
  #maxSegmentBytes(): number {
    const { connection, chunkBytes } = this.#setting;
    const most = Math.min(chunkBytes, connection.info?.max_payload ?? chunkBytes) - FIXED_HEADER_BYTES;
    return Math.max(64, most - (most % 64));
  }

  #segment({ offset, buffer, length }: StreamSegment): void {
    const { headBytes } = this.#publisher;
    const data = buffer.subarray(headBytes + FIXED_HEADER_BYTES, headBytes + FIXED_HEADER_BYTES + length);
    buffer.set(this.#encoder.encode({ kind: 'segment', sequence: offset, value: this.#setting.life }, data), headBytes);
    this.#publisher.publishIn(buffer, FIXED_HEADER_BYTES + length);
  }

  #say(fields: FrameFields): void {
    // (The client copies when its turn of the event loop ends, so the encoder's buffer will not do.)
    if (this.#setting.state.up)
      this.#publisher.publish(this.#encoder.encode({ ...fields, value: this.#setting.life }).slice());
  }

  #end(reason: string): void {
    this.#inbox.sendingEnded(reason);
    this.#inbox.receivingEnded(reason);
    this.#sender.end(new Error(reason));
    this.#closed ??= reason;
  }
}

/** Waits for something that may also fail or never come. */
export async function within(wait: Promise<void>, ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([wait.catch(() => undefined), late]);
  clearTimeout(timer);
}
