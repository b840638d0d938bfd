import type { HostTensor } from '../../tensor/index.ts';
import type { PendingWait, RecvOptions, SendOptions, Transport, TransportStatistics } from '../transport.ts';
import { type Codec, codecNamed } from './codec.ts';
import { decodeTensor, encodeTensor, giveBack, isEncoded } from './message.ts';
import { type CompressionOptions, compresses } from './schema.ts';

const GRADIENTS = /^(reduce|outer)\/.*\/(scatter|gather)\/pieces$/;

/** A transport whose messages pass a codec where the config says so; anything else goes through unchanged. */
export function compressTransport(transport: Transport, options: CompressionOptions): Transport {
  return compresses(options) ? new CompressedTransport(transport, options) : transport;
}

/**
 * The codec of a message, by its tag: `act/…` and `grad/…` go between pipeline stages; `reduce/…/scatter/pieces` and
 * `reduce/…/gather/pieces` are the two halves of an all-reduce of gradients (`outer/…`: of the changes of a round of
 * local steps). Parameters are never encoded.
 */
export function codecOfTag(tag: string, options: CompressionOptions): Codec | null {
  const { gradients, activations } = options;
  if (tag.startsWith('act/') || tag.startsWith('grad/')) return activations === 'none' ? null : codecNamed(activations);
  if (GRADIENTS.test(tag)) return gradients === 'none' ? null : codecNamed(gradients === 'topk' ? 'sparse' : gradients);
  return null;
}

/** Encodes float32 tensors as they are sent and decodes them as they are received, by the class of their edge. */
class CompressedTransport implements Transport {
  readonly name: string;
  readonly rank: number;
  readonly world: number;
  readonly #inner: Transport;
  readonly #options: CompressionOptions;
  #saved = 0;

  constructor(inner: Transport, options: CompressionOptions) {
    this.name = inner.name;
    this.rank = inner.rank;
    this.world = inner.world;
    this.#inner = inner;
    this.#options = options;
  }

  send(to: number, tag: string, tensors: readonly HostTensor[], options: SendOptions = {}): Promise<void> {
    const codec = this.#codec(tag);
    if (!codec) return this.#inner.send(to, tag, tensors, options);
    const encoded = tensors.map((tensor) => {
      if (tensor.dtype !== 'float32') return tensor;
      const bytes = encodeTensor(codec, tensor);
      this.#saved += tensor.data.byteLength - bytes.data.byteLength;
      return bytes;
    });
    // The values have been read: their memory is nobody's any more.
    if (options.transfer) for (const { dtype, data } of tensors) if (dtype === 'float32') giveBack(data);
    // Tensors that are sent as they are stay the caller's unless it gives them away.
    const whole = options.transfer === true || tensors.every(({ dtype }) => dtype === 'float32');
    return this.#inner.send(to, tag, encoded, whole ? { ...options, transfer: true } : options);
  }

  async recv(from: number, tag: string, options?: RecvOptions): Promise<readonly HostTensor[]> {
    const tensors = await this.#inner.recv(from, tag, options);
    const codec = this.#codec(tag);
    // (Only float32 is encoded, so what else came is as it was sent: a gradient that does not exist, or who has what.)
    return codec ? tensors.map((tensor) => (isEncoded(tensor) ? decodeTensor(tensor) : tensor)) : tensors;
  }

  settle(tag: string, values: Float32Array): boolean {
    const codec = this.#codec(tag);
    if (!codec?.lossy) return false;
    const encoded = new Uint8Array(codec.encodedBytes(values));
    codec.encode(values, encoded);
    codec.decode(encoded, values);
    return true;
  }

  pending(): readonly PendingWait[] {
    return this.#inner.pending();
  }

  statistics(): TransportStatistics {
    return { ...this.#inner.statistics(), bytesSaved: this.#saved };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #codec(tag: string): Codec | null {
    return codecOfTag(tag, this.#options);
  }
}
