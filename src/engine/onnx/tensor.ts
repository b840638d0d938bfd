import type { Tensor } from 'onnxruntime-node';
import type { Shape } from '../../tensor/index.ts';
import type { DeviceTensor } from '../engine.ts';
import type { GraphDType } from '../graph.ts';
import type { DeferredRuns } from './deferred.ts';

/** Typed arrays behind values on the host. */
export type HostData = Float32Array | Int32Array | Uint8Array;

/** A value of the ONNX engine: a handle on an ONNX Runtime tensor. */
export class OnnxTensor implements DeviceTensor {
  readonly dtype: GraphDType;
  readonly shape: Shape;
  readonly byteLength: number;
  readonly location: 'host' | 'device';
  /** The runs that wait, if one of them makes its value (`DeferredRuns`). */
  waiting: DeferredRuns | null = null;
  /** Released while it waited: nobody wants the value but other runs that wait. */
  dead = false;
  /** Which flush of the runs that wait reads it; compared with the present one. */
  queued = 0;
  private current: Tensor | null;
  /** Whether the engine made the memory. */
  readonly ours: boolean;
  /** Whether the memory may be given to another value after `release`: it is ours, and nobody looks at it. */
  recyclable: boolean;
  /** Number of the last run that took it as an input: to catch one that is also an `into`. */
  usedBy = 0;

  constructor(
    dtype: GraphDType,
    shape: Shape,
    byteLength: number,
    location: 'host' | 'device',
    value: Tensor | null,
    ours: boolean,
  ) {
    this.dtype = dtype;
    this.shape = shape;
    this.byteLength = byteLength;
    this.location = location;
    this.current = value;
    this.ours = ours;
    this.recyclable = ours;
  }

  /** The tensor of the last run that wrote it; null once released. Looking at it ends the wait of runs that were put off. */
  get value(): Tensor | null {
    this.waiting?.flush();
    return this.current;
  }

  set value(value: Tensor | null) {
    this.current = value;
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
