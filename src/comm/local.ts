import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { type DType, type HostTensor, type Shape, sizeOf, type TypedArray, type wasm } from '../tensor/index.ts';
import { Arena, arenaMemory } from './arena.ts';
import type { SharedArena } from './arena-reduction.ts';
import { CommProtocolError } from './errors.ts';
import { type Link, LinkedTransport, type LinkedTransportOptions, type LinkInbox } from './linked-transport.ts';
import { scratch } from './scratch.ts';
import type { Transport } from './transport.ts';

/** Options of a local transport. */
export interface LocalTransportOptions extends LinkedTransportOptions {
  readonly rank: number;
  /** Ports to the other ranks, index = rank; null for this rank itself. */
  readonly ports: readonly (MessagePort | null)[];
  /** Memory that all ranks share (`createLocalLinks` makes it); only where the ports lead to their threads without a relay. */
  readonly arena?: wasm.WasmMemory | null;
}

/** What a rank is given to be linked to all others: ports, which are transferred to its thread, and memory that all share. */
export interface LocalLinks {
  /** Index = rank; null for the rank itself. */
  readonly ports: readonly (MessagePort | null)[];
  /** Null where there is none. */
  readonly arena: wasm.WasmMemory | null;
}

/**
 * What crosses a port. Data: a descriptor and bare ArrayBuffers (never typed arrays: posting those takes Deno 80-190 ms
 * a megabyte). Credit: messages of a channel that were taken. Closed: the peer is going away in good order.
 */
type Frame =
  | readonly [kind: 0, tag: string, specs: readonly (readonly [DType, Shape])[], buffers: readonly ArrayBufferLike[]]
  | readonly [kind: 1, channel: string, count: number]
  | readonly [kind: 2, reason: string];

/** Connects `world` ranks of one process: entry r is what rank r's thread is given. */
export function createLocalLinks(world: number): LocalLinks[] {
  const ports: (MessagePort | null)[][] = Array.from({ length: world }, () => new Array(world).fill(null));
  for (let a = 0; a < world; a++)
    for (let b = a + 1; b < world; b++) {
      const channel = new MessageChannel();
      (ports[a] as (MessagePort | null)[])[b] = channel.port1;
      (ports[b] as (MessagePort | null)[])[a] = channel.port2;
    }
  const arena = arenaMemory(world);
  return ports.map((own) => ({ ports: own, arena }));
}

/** Transports of a whole world in one thread, for tests and in-process runs: the same code over the same ports. */
export function createLoopbackTransports(world: number, options: LinkedTransportOptions = {}): Transport[] {
  return createLocalLinks(world).map((link, rank) => createLocalTransport({ rank, ...link, ...options }));
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

class LocalTransport extends LinkedTransport {
  readonly shared: SharedArena | undefined;

  constructor(options: LocalTransportOptions) {
    const { rank, ports, arena } = options;
    super({ name: 'local', rank, world: ports.length }, options, (peer, inbox) => {
      const port = ports[peer];
      return port ? new LocalLink(rank, port, inbox) : null;
    });
    if (!arena) return;
    this.shared = {
      arena: new Arena(arena, rank),
      attend: (from, tag, until) => this.attend(from, tag, until),
      moved: (bytesSent, bytesReceived) => this.moved(bytesSent, bytesReceived),
    };
  }
}

/** The end of a link over a message port. `rank` is for messages. */
export class LocalLink implements Link {
  readonly #rank: number;
  readonly #port: MessagePort;
  readonly #inbox: LinkInbox;
  /** Cleared when the port has closed: Node crashes if a closed port is read. */
  #open = true;

  constructor(rank: number, port: MessagePort, inbox: LinkInbox) {
    this.#rank = rank;
    this.#port = port;
    this.#inbox = inbox;
    port.on('message', (frame: Frame) => this.#accept(frame));
    port.on('close', () => {
      this.#open = false;
      this.#end('its port was closed');
    });
    port.unref();
  }

  post(tag: string, tensors: readonly HostTensor[], transfer: boolean): undefined {
    const buffers = tensors.map((tensor) => ownBuffer(tensor.data, transfer));
    const frame: Frame = [0, tag, tensors.map((tensor) => [tensor.dtype, tensor.shape] as const), buffers];
    // Two tensors may share a buffer; it can be transferred only once.
    const owned = buffers.filter((buffer) => buffer instanceof ArrayBuffer);
    this.#port.postMessage(frame, [...new Set(owned)]);
  }

  giveCredit(channel: string, count: number): void {
    if (this.#open) this.#port.postMessage([1, channel, count] satisfies Frame);
  }

  poll(): void {
    while (this.#open) {
      const item = receiveMessageOnPort(this.#port);
      if (!item) return;
      this.#accept(item.message as Frame);
    }
  }

  hold(on: boolean): void {
    if (!this.#open) return;
    if (on) this.#port.ref();
    else this.#port.unref();
  }

  async close(reason: string): Promise<void> {
    if (!this.#open) return;
    this.#port.postMessage([2, reason] satisfies Frame);
    this.#open = false;
    this.#port.close();
  }

  #accept(frame: Frame): void {
    switch (frame[0]) {
      case 0: {
        const [, tag, specs, buffers] = frame;
        this.#inbox.message(
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
        this.#inbox.credit(frame[1], frame[2]);
        return;
      case 2:
        this.#end(frame[1]);
        return;
      default:
        throw new CommProtocolError(`rank ${this.#rank} received a frame of unknown kind ${String(frame[0])}`);
    }
  }

  #end(reason: string): void {
    this.#inbox.sendingEnded(reason);
    this.#inbox.receivingEnded(reason);
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
