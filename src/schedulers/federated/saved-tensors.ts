import { join } from 'node:path';
import { CheckpointReader } from '../../coordinator/index.ts';
import { float32, type HostTensor, type LazyTensor, writeSafetensors } from '../../tensor/index.ts';
import { partOf, type VectorLayout } from '../local/index.ts';

/** Places of parameters, and of module state, in vectors. */
export interface Layouts {
  readonly params: VectorLayout;
  readonly state: VectorLayout;
}

/** Prefixes of the tensors that every federated run keeps. */
const PARAM = 'param/';
const STATE = 'state/';

/** What a checkpoint of a federated run holds, while it is open. */
export interface SavedTensors {
  /** Names of all tensors. */
  readonly names: readonly string[];
  /** @throws CheckpointError if there is none of that name */
  read(name: string): Promise<HostTensor>;
}

/** Opens a checkpoint, lets `use` take what it needs from it, and closes it. */
export async function withSaved<T>(
  from: { readonly path: string; readonly index: Parameters<typeof CheckpointReader.open>[1] },
  use: (saved: SavedTensors) => Promise<T>,
): Promise<T> {
  const reader = await CheckpointReader.open(from.path, from.index);
  try {
    return await use({ names: reader.names(), read: (name) => reader.read(name) });
  } finally {
    await reader.close();
  }
}

/** Fills a vector of parameters and one of module state from a checkpoint. */
export async function readModel(saved: SavedTensors, layouts: Layouts, params: Float32Array, state: Float32Array) {
  for (const place of layouts.params.places)
    partOf(params, place).set((await saved.read(PARAM + place.path)).data as Float32Array);
  for (const place of layouts.state.places)
    partOf(state, place).set((await saved.read(STATE + place.path)).data as Float32Array);
}

/** Writes one file with parameters, module state, and everything else that going on needs. */
export async function writeModel(
  dir: string,
  layouts: Layouts,
  model: { readonly params: Float32Array; readonly state: Float32Array },
  more: Readonly<Record<string, HostTensor | LazyTensor>>,
) {
  const tensors: Record<string, HostTensor | LazyTensor> = { ...more };
  for (const place of layouts.params.places)
    tensors[PARAM + place.path] = float32(partOf(model.params, place), place.shape);
  for (const place of layouts.state.places)
    tensors[STATE + place.path] = float32(partOf(model.state, place), place.shape);
  const file = 'server.safetensors';
  const { sha256 } = await writeSafetensors(join(dir, file), tensors);
  return [{ file, sha256, tensors: Object.keys(tensors) }];
}

/** Vectors as tensors of a checkpoint, each name after a prefix. */
export function vectorTensors(prefix: string, vectors: Readonly<Record<string, Float32Array>>) {
  return Object.fromEntries(
    Object.entries(vectors).map(([name, vector]) => [prefix + name, float32(vector, [vector.length])]),
  );
}

/** Takes vectors back from a checkpoint, into their own memory. */
export async function readVectors(
  saved: SavedTensors,
  prefix: string,
  vectors: Readonly<Record<string, Float32Array>>,
): Promise<void> {
  for (const [name, vector] of Object.entries(vectors))
    vector.set((await saved.read(prefix + name)).data as Float32Array);
}

/** Numbers of double precision as a tensor: clocks and counts must come back to the bit. */
export function doubles(values: readonly number[]): HostTensor {
  const data = new Uint8Array(Float64Array.from(values).buffer);
  return { dtype: 'uint8', shape: [data.length], data };
}

/** The numbers of a tensor that `doubles` made. */
export async function readDoubles(saved: SavedTensors, name: string): Promise<number[]> {
  const { data } = await saved.read(name);
  // (A copy, since a view of doubles must begin at a multiple of eight.)
  return [...new Float64Array(Uint8Array.from(data as Uint8Array).buffer)];
}
