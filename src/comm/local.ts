import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { type DType, type HostTensor, type Shape, sizeOf, type TypedArray } from '../tensor/index.ts';
import { CreditWindow, channelOf } from './credits.ts';
import { CommClosed, CommProtocolError } from './errors.ts';
import { Mailbox } from './mailbox.ts';
import { scratch } from './scratch.ts';
import type { PendingWait, RecvOptions, SendOptions, Transport, TransportStatistics } from './transport.ts';

/** Options of a local transport. */
export interface LocalTransportOptions {
  readonly rank: number;
  /** Ports to the other ranks, index = rank; null for this rank itself. */
  readonly ports: readonly (MessagePort | null)[];
  /** How long a wait may take before it fails, in milliseconds. Default 60 s. */
  readonly deadlineMs?: number;
  /** Messages per (peer, channel) that may be sent before the receiver has taken any. Default 64. */
  readonly credits?: number;
}

/**
 * What crosses a port. Data: a descriptor and bare ArrayBuffers (never typed arrays: posting those takes Deno 80-190 ms
 * a megabyte). Credit: messages of a channel that were taken. Closed: the peer is going away in good order.
 */
type Frame =
  | readonly [kind: 0, tag: string, specs: readonly (readonly [DType, Shape])[], buffers: readonly ArrayBufferLike[]]
  | readonly [kind: 1, channel: string, count: number]
  | readonly [kind: 2, reason: string];

/** Makes the ports that connect `world` ranks of one process: entry r is what rank r's thread is given (and transferred). */
export function createLocalLinks(world: number): { readonly ports: readonly (MessagePort | null)[] }[] {
  const ports: (MessagePort | null)[][] = Array.from({ length: world }, () => new Array(world).fill(null));
  for (let a = 0; a < world; a++)
    for (let b = a + 1; b < world; b++) {
      const channel = new MessageChannel();
      (ports[a] as (MessagePort | null)[])[b] = channel.port1;
      (ports[b] as (MessagePort | null)[])[a] = channel.port2;
    }
  return ports.map((own) => ({ ports: own }));
}

/** Transports of a whole world in one thread, for tests and in-process runs: the same code over the same ports. */
export function createLoopbackTransports(
  world: number,
  options: { readonly deadlineMs?: number; readonly credits?: number } = {},
): Transport[] {
  return createLocalLinks(world).map((link, rank) => createLocalTransport({ rank, ports: link.ports, ...options }));
}

/**
 * A transport between worker threads of one process. Buffers are transferred where the sender allows it and copied once
 * otherwise. Messages that came while the thread was computing are fetched when they are asked for, without waiting for
 * a turn of the event loop; otherwise the port's event wakes the thread (as fast as `Atomics.wait` on two threads, and
 * the event loop stays free).
 */
export function createLocalTransport(options: LocalTransportOptions): Transport {
  return new LocalTransport(options);
}

interface Peer {
  readonly port: MessagePort;
  /** Cleared when the port has closed: Node crashes if a closed port is read. */
  open: boolean;
  readonly mailbox: Mailbox;
  readonly credits: CreditWindow;
  /** Messages taken per channel and not yet reported to the sender. */
  readonly taken: Map<string, number>;
}

class LocalTransport implements Transport {
  readonly name = 'local';
  readonly rank: number;
  readonly world: number;
  readonly #deadlineMs: number;
  readonly #creditBatch: number;
  readonly #peers: readonly (Peer | null)[];
  readonly #statistics = { messagesSent: 0, bytesSent: 0, messagesReceived: 0, bytesReceived: 0 };
  #waits = 0;
  #closed = false;

  constructor(options: LocalTransportOptions) {
    const { rank, ports, deadlineMs = 60_000, credits = 64 } = options;
    this.rank = rank;
    this.world = ports.length;
    this.#deadlineMs = deadlineMs;
    this.#creditBatch = Math.max(1, credits >> 1);
    this.#peers = ports.map((port, peer) => {
      if (!port) return null;
      const entry: Peer = {
        port,
        open: true,
        mailbox: new Mailbox(rank, peer),
        credits: new CreditWindow(rank, peer, credits),
        taken: new Map(),
      };
      port.on('message', (frame: Frame) => this.#accept(entry, frame));
      port.on('close', () => {
        entry.open = false;
        this.#closePeer(entry, 'its port was closed');
      });
      port.unref();
      return entry;
    });
  }

  async send(to: number, tag: string, tensors: readonly HostTensor[], options: SendOptions = {}): Promise<void> {
    const peer = this.#peer(to, tag);
    const post = () => {
      const buffers = tensors.map((tensor) => ownBuffer(tensor.data, options.transfer === true));
      const frame: Frame = [0, tag, tensors.map((tensor) => [tensor.dtype, tensor.shape] as const), buffers];
      this.#statistics.messagesSent += 1;
      for (const { data } of tensors) this.#statistics.bytesSent += data.byteLength;
      // Two tensors may share a buffer; it can be transferred only once.
      const owned = buffers.filter((buffer) => buffer instanceof ArrayBuffer);
      peer.port.postMessage(frame, [...new Set(owned)]);
    };
    if (peer.credits.tryTake(tag)) return post();
    this.#drain(peer);
    if (peer.credits.tryTake(tag)) return post();
    await this.#waiting(peer.credits.take(tag, this.#deadlineMs, () => this.#drain(peer), post));
  }

  async recv(from: number, tag: string, options: RecvOptions = {}): Promise<readonly HostTensor[]> {
    const peer = this.#peer(from, tag);
    let tensors = peer.mailbox.take(tag);
    if (!tensors) {
      this.#drain(peer);
      tensors = peer.mailbox.take(tag);
    }
    tensors ??= await this.#waiting(
      peer.mailbox.wait(tag, options.deadlineMs ?? this.#deadlineMs, () => this.#drain(peer)),
    );
    this.#giveBack(peer, channelOf(tag));
    this.#statistics.messagesReceived += 1;
    for (const tensor of tensors) this.#statistics.bytesReceived += tensor.data.byteLength;
    return tensors;
  }

  pending(): readonly PendingWait[] {
    return this.#peers.flatMap((peer) => peer?.mailbox.pending() ?? []);
  }

  statistics(): TransportStatistics {
    return { ...this.#statistics };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const peer of this.#peers) {
      if (!peer) continue;
      peer.mailbox.close('closed here');
      peer.credits.close('closed here');
      if (!peer.open) continue;
      peer.port.postMessage([2, `rank ${this.rank} closed its transport`] satisfies Frame);
      peer.open = false;
      peer.port.close();
    }
  }

  #peer(rank: number, tag: string): Peer {
    const peer = this.#peers[rank];
    if (!peer)
      throw new RangeError(
        `rank ${this.rank} has no link to rank ${rank} for "${tag}" (ranks are 0..${this.world - 1}, and not its own)`,
      );
    if (this.#closed) throw new CommClosed(this.rank, this.rank, tag, 'closed here');
    return peer;
  }

  #drain(peer: Peer): void {
    while (peer.open) {
      const item = receiveMessageOnPort(peer.port);
      if (!item) return;
      this.#accept(peer, item.message as Frame);
    }
  }

  #accept(peer: Peer, frame: Frame): void {
    switch (frame[0]) {
      case 0: {
        const [, tag, specs, buffers] = frame;
        peer.mailbox.deliver(
          tag,
          specs.map(([dtype, shape], i) => ({
            dtype,
            shape,
            data: view(dtype, sizeOf(shape), buffers[i] as ArrayBufferLike),
          })),
        );
        return;
      }
      case 1:
        peer.credits.give(frame[1], frame[2]);
        return;
      case 2:
        this.#closePeer(peer, frame[1]);
        return;
      default:
        throw new CommProtocolError(`rank ${this.rank} received a frame of unknown kind ${String(frame[0])}`);
    }
  }

  #closePeer(peer: Peer, reason: string): void {
    peer.mailbox.close(reason);
    peer.credits.close(reason);
  }

  #giveBack(peer: Peer, channel: string): void {
    const taken = (peer.taken.get(channel) ?? 0) + 1;
    if (taken < this.#creditBatch) {
      peer.taken.set(channel, taken);
      return;
    }
    peer.taken.delete(channel);
    if (peer.open) peer.port.postMessage([1, channel, taken] satisfies Frame);
  }

  /** Ports keep the thread alive only while something is waited for. */
  async #waiting<T>(wait: Promise<T>): Promise<T> {
    if (this.#waits++ === 0) for (const peer of this.#peers) if (peer?.open) peer.port.ref();
    try {
      return await wait;
    } finally {
      if (--this.#waits === 0) for (const peer of this.#peers) if (peer?.open) peer.port.unref();
    }
  }
}

/**
 * The buffer to post: the tensor's own if it may be given away and holds nothing else, or scratch memory, which is
 * shared; else a copy.
 */
function ownBuffer(data: TypedArray, transfer: boolean): ArrayBuffer | SharedArrayBuffer {
  const { buffer, byteOffset, byteLength } = data;
  if (transfer && byteOffset === 0) {
    if (buffer instanceof ArrayBuffer && byteLength === buffer.byteLength) return buffer;
    if (scratch.owns(buffer)) return buffer;
  }
  const copy = new ArrayBuffer(byteLength);
  new Uint8Array(copy).set(new Uint8Array(buffer, byteOffset, byteLength));
  return copy;
}

function view(dtype: DType, length: number, buffer: ArrayBufferLike): TypedArray {
  switch (dtype) {
    case 'float32':
      return new Float32Array(buffer, 0, length);
    case 'int32':
      return new Int32Array(buffer, 0, length);
    case 'float16':
    case 'bfloat16':
      return new Uint16Array(buffer, 0, length);
    case 'int64':
      return new BigInt64Array(buffer, 0, length);
    case 'int8':
      return new Int8Array(buffer, 0, length);
    default:
      return new Uint8Array(buffer, 0, length);
  }
}
