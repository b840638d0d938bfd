import type { Named } from '../../modules/index.ts';
import { type HostTensor, type Shape, sizeOf } from '../../tensor/index.ts';

/** A tensor's place in a vector of all of them. */
export interface Place {
  readonly path: string;
  readonly shape: Shape;
  /** First element. */
  readonly offset: number;
  readonly size: number;
}

/** All tensors of a model as one float32 vector, in the order of the paths: what updates are added up and sent as. */
export interface VectorLayout {
  readonly places: readonly Place[];
  readonly size: number;
}

/** Lays tensors out one after another, in the order given. */
export function vectorLayout(named: readonly Named<{ readonly shape: Shape }>[]): VectorLayout {
  let offset = 0;
  const places = named.map(({ path, spec }): Place => {
    const place = { path, shape: spec.shape, offset, size: sizeOf(spec.shape) };
    offset += place.size;
    return place;
  });
  return { places, size: offset };
}

/** One tensor's part of a vector, without a copy. */
export function partOf(vector: Float32Array, { offset, size }: Place): Float32Array {
  return vector.subarray(offset, offset + size);
}

/** The tensors of a layout as one vector. @throws Error naming a tensor that is not given */
export function vectorOf(
  layout: VectorLayout,
  tensors: Readonly<Record<string, Pick<HostTensor, 'data'>>>,
): Float32Array {
  const vector = new Float32Array(layout.size);
  for (const place of layout.places) {
    const tensor = tensors[place.path];
    if (!tensor) throw new Error(`the tensor ${place.path} of the layout is not among those given`);
    partOf(vector, place).set(tensor.data as Float32Array);
  }
  return vector;
}

/** A tensor's values, and the place of the first one in the vector of all tensors. */
export interface TensorPart {
  readonly offset: number;
  readonly data: Float32Array;
}
