import { type HostTensor, sizeOf } from '../../tensor/index.ts';
import { CommProtocolError } from '../errors.ts';
import { scratch } from '../scratch.ts';
import { CODEC_NAMES, type Codec, codecNamed } from './codec.ts';

/*
 * An encoded tensor is a uint8 tensor: u8 magic, u8 codec, u8 dimensions, u8 flags, the dimensions (u32 each), and what
 * the codec wrote. Flag 1: the tensor lay in scratch memory, and shall do so where it arrives.
 */
const MAGIC = 0xc5;
const POOLED = 1;

/** Elements of the largest tensor that is sent sparse: zeros take no bytes, so their number must be bounded. */
const MOST_SPARSE = 2 ** 26;

/** Bytes of the header of an encoded tensor of so many dimensions. */
export function encodedHeaderBytes(dimensions: number): number {
  return 4 + 4 * dimensions;
}

/** A float32 tensor as bytes, in scratch memory where that is worth it. */
export function encodeTensor(codec: Codec, tensor: HostTensor): HostTensor {
  const values = tensor.data as Float32Array;
  const { shape } = tensor;
  const header = encodedHeaderBytes(shape.length);
  const length = header + codec.encodedBytes(values);
  const { buffer } = scratch.take(Math.ceil(length / 4));
  const bytes = new Uint8Array(buffer, 0, length);
  bytes.set([MAGIC, CODEC_NAMES.indexOf(codec.name), shape.length, scratch.owns(values.buffer) ? POOLED : 0]);
  new Uint32Array(buffer, 4, shape.length).set(shape);
  codec.encode(values, bytes.subarray(header));
  return { dtype: 'uint8', shape: [length], data: bytes };
}

/** Whether a tensor was made by `encodeTensor`; what else travels on such edges is float32, empty, or zeros and ones. */
export function isEncoded({ dtype, data }: HostTensor): boolean {
  return dtype === 'uint8' && data[0] === MAGIC;
}

/**
 * The tensor that was encoded; the memory of the bytes is given back.
 * @throws CommProtocolError if the bytes are not an encoded tensor
 */
export function decodeTensor({ dtype, data }: HostTensor): HostTensor {
  const bytes = data as Uint8Array;
  const [magic, index, dimensions, flags] = bytes;
  const name = CODEC_NAMES[index ?? -1];
  const header = encodedHeaderBytes(dimensions ?? 0);
  if (dtype !== 'uint8' || magic !== MAGIC || name === undefined || bytes.length < header || bytes.byteOffset % 4 !== 0)
    throw new CommProtocolError(
      `a ${dtype} tensor of ${bytes.length} bytes came where one encoded by a codec was expected; is comm.compression the same on all ranks?`,
    );
  const shape = [...new Uint32Array(bytes.buffer, bytes.byteOffset + 4, dimensions)];
  const size = sizeOf(shape);
  // A shape that does not fit the bytes must not make us allocate whatever it says.
  if (size > (name === 'sparse' ? MOST_SPARSE : bytes.length))
    throw new CommProtocolError(`${bytes.length} bytes of ${name} claim to be a tensor of shape [${shape}]`);
  const values = (flags as number) & POOLED ? scratch.take(size) : new Float32Array(size);
  codecNamed(name).decode(bytes.subarray(header), values);
  giveBack(bytes);
  return { dtype: 'float32', shape, data: values };
}

/** Gives memory back to the pool if it came from there. */
export function giveBack({ buffer }: { readonly buffer: ArrayBufferLike }): void {
  if (buffer instanceof SharedArrayBuffer) scratch.give(new Float32Array(buffer));
}
