import type { Tensor } from 'onnxruntime-node';
import type { Shape } from '../../tensor/index.ts';
import type { DeviceTensor } from '../engine.ts';
import type { GraphDType } from '../graph.ts';

/** Typed arrays behind values on the host. */
export type HostData = Float32Array | Int32Array | Uint8Array;

/** A value of the ONNX engine: a handle on an ONNX Runtime tensor. */
export class OnnxTensor implements DeviceTensor {
  readonly dtype: GraphDType;
  readonly shape: Shape;
  readonly byteLength: number;
  readonly location: 'host' | 'device';
  /** The tensor of the last run that wrote it; null once released. */
  value: Tensor | null;
  /** Whether the memory may be given to another value after `release`: it is ours, and nobody was shown it. */
  recyclable: boolean;
  /** Number of the last run that took it as an input: to catch one that is also an `into`. */
  usedBy = 0;

  constructor(
    dtype: GraphDType,
    shape: Shape,
    byteLength: number,
    location: 'host' | 'device',
    value: Tensor,
    recyclable: boolean,
  ) {
    this.dtype = dtype;
    this.shape = shape;
    this.byteLength = byteLength;
    this.location = location;
    this.value = value;
    this.recyclable = recyclable;
  }
}

/** A typed array of a graph dtype over a buffer. */
export function hostData(dtype: GraphDType, buffer: ArrayBuffer, size: number): HostData {
  switch (dtype) {
    case 'float32':
      return new Float32Array(buffer, 0, size);
    case 'int32':
      return new Int32Array(buffer, 0, size);
    default:
      return new Uint8Array(buffer, 0, size);
  }
}

/**
 * Memory of released values, by size, for values to come: fresh pages cost 0.25 ms a MB when they are first written.
 * Holds at most `limit` bytes; what is beyond is left to the garbage collector.
 */
export class BufferPool {
  private readonly free = new Map<number, ArrayBuffer[]>();
  private held = 0;
  private readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  take(byteLength: number): ArrayBuffer {
    const buffer = this.free.get(byteLength)?.pop();
    if (buffer === undefined) return new ArrayBuffer(byteLength);
    this.held -= byteLength;
    return buffer;
  }

  give(buffer: ArrayBuffer): void {
    // A buffer that was transferred to another thread has length 0 here.
    if (buffer.byteLength === 0 || this.held + buffer.byteLength > this.limit) return;
    const list = this.free.get(buffer.byteLength);
    if (list) list.push(buffer);
    else this.free.set(buffer.byteLength, [buffer]);
    this.held += buffer.byteLength;
  }

  clear(): void {
    this.free.clear();
    this.held = 0;
  }
}
