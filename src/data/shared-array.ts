/** Element types that prepared data is kept in. */
export type SharedDType = 'uint8' | 'uint16' | 'int32' | 'float32';

/**
 * A typed array in shared memory, as plain data that can be posted to another thread. The bare buffer is kept rather
 * than a view on it, because some runtimes serialise posted views slowly.
 */
export interface SharedArray {
  readonly dtype: SharedDType;
  readonly buffer: SharedArrayBuffer;
}

const VIEWS = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array } as const;

/** The typed array of a dtype. */
export type ViewOf<D extends SharedDType> = InstanceType<(typeof VIEWS)[D]>;

/** Copies values into new shared memory. */
export function share(dtype: SharedDType, values: ArrayLike<number>): SharedArray {
  const buffer = new SharedArrayBuffer(values.length * VIEWS[dtype].BYTES_PER_ELEMENT);
  const array: SharedArray = { dtype, buffer };
  view(array, dtype).set(values);
  return array;
}

/** A view on shared data; no copy. @throws TypeError if it is of another dtype. */
export function view<D extends SharedDType>(array: SharedArray, dtype: D): ViewOf<D> {
  if (array.dtype !== dtype) throw new TypeError(`expected shared ${dtype} data, found ${array.dtype}`);
  const View: new (buffer: SharedArrayBuffer) => unknown = VIEWS[dtype];
  return new View(array.buffer) as ViewOf<D>;
}
