import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeviceTensor, Engine } from '../engine/index.ts';
import { initParams, initState } from '../modules/index.ts';
import type { Program } from '../plan/index.ts';
import {
  float32,
  type HostTensor,
  type LazyTensor,
  openSafetensors,
  type SafetensorsReader,
  writeSafetensors,
  zeros,
} from '../tensor/index.ts';
import { type HeldTensor, shardFile } from './held-tensors.ts';
import type { ParamGroup } from './param-group.ts';
import type { ShardReport } from './protocol.ts';

/** A checkpoint does not have what this rank needs, or has it in another shape. */
export class CheckpointMismatch extends Error {
  override readonly name = 'CheckpointMismatch';
}

/** Where the first values of a rank's tensors come from, other than from the seed. */
export interface InitialSource {
  /** Completed steps. */
  readonly step: number;
  /**
   * Reads a tensor, float32 of this shape. Memory that is shared is copied by the caller; other memory becomes the
   * tensor's own.
   */
  read(name: string, shape: readonly number[]): Promise<HostTensor>;
  /** Whether it has a tensor. Where this is absent, it has all. */
  has?(name: string): boolean | Promise<boolean>;
  /** The tensor itself, where this thread's engine has it already. */
  inPlace?(name: string, shape: readonly number[]): DeviceTensor | null;
  /** A host tensor that nobody needs any more, whose memory may be written to. */
  memory?(name: string, shape: readonly number[]): DeviceTensor | null;
  /** Everything has been read. */
  done?(): void;
}

/** Draws initial parameters; optimizer state starts at zero. Values depend on the seed and the paths only. */
export function initialiseGroups(engine: Engine, groups: readonly ParamGroup[], seed: number): void {
  for (const group of groups) {
    const params = initParams(group.params, seed);
    const state = initState(group.state, seed);
    for (const param of group.params) {
      param.tensor = engine.upload(params[param.path] as HostTensor);
      const slots = param.keepsSlots === false ? [] : param.slotNames;
      param.slots = slots.map(() => engine.upload(zeros('float32', param.spec.shape)));
      if (param.residual) param.residual = engine.upload(zeros('float32', param.spec.shape));
    }
    for (const held of group.state) held.tensor = engine.upload(state[held.path] as HostTensor);
    // Each upload takes its memory over, so anchors get values of their own.
    const anchored = <T extends { readonly outer?: unknown }>(held: readonly T[]): T[] =>
      held.filter(({ outer }) => outer);
    const anchors = { ...initParams(anchored(group.params), seed), ...initState(anchored(group.state), seed) };
    for (const { path, outer } of [...group.params, ...group.state])
      if (outer) outer.anchor = engine.upload(anchors[path] as HostTensor);
    for (const { outer, spec } of group.params)
      if (outer) outer.slots = outer.slotNames.map(() => engine.upload(zeros('float32', spec.shape)));
  }
}

/**
 * Reads all that a rank holds from a source, one tensor after another.
 * @throws what the source throws; CheckpointMismatch if a tensor has another shape or type
 */
export async function loadHeld(engine: Engine, held: readonly HeldTensor[], source: InitialSource): Promise<void> {
  for (const { name, shape, optional, set } of held) {
    const there = source.inPlace?.(name, shape);
    if (there && isHere(engine, there)) {
      set(there);
      continue;
    }
    if (optional && (await source.has?.(name)) === false) {
      set(engine.upload(zeros('float32', shape)));
      continue;
    }
    const tensor = await source.read(name, shape);
    if (tensor.dtype !== 'float32' || String(tensor.shape) !== String(shape))
      throw new CheckpointMismatch(
        `"${name}" came as ${tensor.dtype} [${tensor.shape}], but is float32 [${shape}] in the model: its source is of another model`,
      );
    const old = tensor.data.buffer instanceof ArrayBuffer ? null : source.memory?.(name, shape);
    const memory = old && isHere(engine, old) ? engine.host(old) : null;
    if (old && memory) {
      (memory.data as Float32Array).set(tensor.data as Float32Array);
      set(old);
      continue;
    }
    // The engine takes no shared memory, and a tensor's memory is written to after some steps.
    const own =
      tensor.data.buffer instanceof ArrayBuffer ? tensor : float32(tensor.data.slice() as Float32Array, shape);
    set(engine.upload(own));
  }
  source.done?.();
}

/** Whether the memory of a tensor has not gone to another thread. */
function isHere(engine: Engine, tensor: DeviceTensor): boolean {
  const host = engine.host(tensor);
  return host === null || host.data.byteLength === tensor.byteLength;
}

/**
 * Opens a checkpoint that any mesh may have written; only the files and tensors that are asked for are read.
 * @throws CheckpointMismatch if its index is damaged; reading throws it naming the tensor that is missing or has another
 * shape
 */
export async function openCheckpoint(folder: string): Promise<InitialSource & { close(): Promise<void> }> {
  const index = await readIndex(folder);
  const fileOf = new Map(index.shards.flatMap(({ file, tensors }) => tensors.map((name) => [name, file] as const)));
  const readers = new Map<string, Promise<SafetensorsReader>>();
  return {
    step: index.step,
    has: (name) => fileOf.has(name),
    async read(name, shape) {
      const file = fileOf.get(name);
      if (file === undefined)
        throw new CheckpointMismatch(
          `checkpoint ${folder} has no tensor "${name}" [${shape}]: it is of another model or optimizer; use the config it was made with`,
        );
      let reader = readers.get(file);
      if (!reader) {
        reader = openSafetensors(join(folder, file));
        readers.set(file, reader);
      }
      const tensor = await (await reader).read(name);
      if (tensor.dtype !== 'float32' || String(tensor.shape) !== String(shape))
        throw new CheckpointMismatch(
          `tensor "${name}" is ${tensor.dtype} [${tensor.shape}] in checkpoint ${folder}, but float32 [${shape}] in the model: it is of another model`,
        );
      return tensor;
    },
    async close() {
      for (const reader of readers.values())
        await reader.then(
          (open) => open.close(),
          // One that could not be opened has been reported by the read that wanted it.
          () => undefined,
        );
    },
  };
}

/**
 * Writes this rank's shard: what it is the one to write of what it holds. Returns no shard if there is nothing to write.
 * The file is on the disk (fsync) when this resolves.
 */
export async function writeShard(
  engine: Engine,
  held: readonly HeldTensor[],
  program: Program,
  folder: string,
): Promise<ShardReport[]> {
  const tensors: Record<string, LazyTensor> = {};
  for (const { name, shape, writes, tensor } of held)
    if (writes)
      tensors[name] = {
        dtype: 'float32',
        shape,
        load: async () => engine.host(tensor()) ?? (await engine.download(tensor())),
      };
  if (Object.keys(tensors).length === 0) return [];
  const file = shardFile(program);
  const { sha256 } = await writeSafetensors(join(folder, file), tensors);
  return [{ file, sha256, tensors: Object.keys(tensors) }];
}

interface Index {
  readonly step: number;
  readonly shards: readonly { readonly file: string; readonly tensors: readonly string[] }[];
}

/** The part of a checkpoint's `index.json` that a worker needs. The coordinator has verified the whole before. */
async function readIndex(folder: string): Promise<Index> {
  const file = join(folder, 'index.json');
  const index = JSON.parse(await readFile(file, 'utf8')) as Partial<Index> | null;
  if (typeof index?.step !== 'number' || !Array.isArray(index.shards))
    throw new CheckpointMismatch(`${file} has no step or no shards: it is damaged, or not a checkpoint's index`);
  return index as Index;
}
