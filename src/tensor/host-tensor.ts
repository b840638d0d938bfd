/** Element types that a tensor in host memory can have. `bool` is stored as one byte, 0 or 1. */
export type DType = 'float32' | 'int32' | 'bool' | 'uint8' | 'int8' | 'float16' | 'bfloat16' | 'int64';

/** Row-major sizes; `[]` is a scalar. */
export type Shape = readonly number[];

/** The typed array that backs each dtype. Half precision is kept as raw 16-bit patterns. */
export type TypedArray = Float32Array | Int32Array | Uint8Array | Int8Array | Uint16Array | BigInt64Array;

/** A dense row-major tensor in host memory. Treated as immutable once handed to someone else. */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: TypedArray;
}

/** Shape and dtype without data: what signatures, checkpoint indices and plans talk about. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** Bytes one element of `dtype` takes. */
export function bytesPerElement(dtype: DType): number {
  switch (dtype) {
    case 'float32':
    case 'int32':
      return 4;
    case 'float16':
    case 'bfloat16':
      return 2;
    case 'int64':
      return 8;
    default:
      return 1;
  }
}

/** Number of elements of a shape; 1 for a scalar, 0 when any dimension is 0. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Bytes a tensor of this shape and dtype takes in host memory. */
export function byteLengthOf(spec: TensorSpec): number {
  return sizeOf(spec.shape) * bytesPerElement(spec.dtype);
}

/** Allocates the typed array that backs `size` elements of `dtype`, zero-filled. */
export function allocate(dtype: DType, size: number): TypedArray {
  switch (dtype) {
    case 'float32':
      return new Float32Array(size);
    case 'int32':
      return new Int32Array(size);
    case 'float16':
    case 'bfloat16':
      return new Uint16Array(size);
    case 'int64':
      return new BigInt64Array(size);
    case 'int8':
      return new Int8Array(size);
    default:
      return new Uint8Array(size);
  }
}

/** A tensor of zeros. */
export function zeros(dtype: DType, shape: Shape): HostTensor {
  return { dtype, shape, data: allocate(dtype, sizeOf(shape)) };
}

/** Wraps a Float32Array (not copied) or an array of numbers; throws if the element count does not fit `shape`. */
export function float32(values: Float32Array | readonly number[], shape: Shape): HostTensor {
  const data = values instanceof Float32Array ? values : Float32Array.from(values);
  return checked({ dtype: 'float32', shape, data });
}

/** Wraps an Int32Array (not copied) or an array of integers; throws if the element count does not fit `shape`. */
export function int32(values: Int32Array | readonly number[], shape: Shape): HostTensor {
  const data = values instanceof Int32Array ? values : Int32Array.from(values);
  return checked({ dtype: 'int32', shape, data });
}

/** A float32 scalar. */
export function scalar(value: number): HostTensor {
  return float32([value], []);
}

function checked(tensor: HostTensor): HostTensor {
  const size = sizeOf(tensor.shape);
  if (size !== tensor.data.length)
    throw new RangeError(
      `a ${tensor.dtype} tensor of shape [${tensor.shape}] holds ${size} elements, but ${tensor.data.length} were given`,
    );
  return tensor;
}
