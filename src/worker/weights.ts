import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../engine/index.ts';
import { initParams, initState } from '../modules/index.ts';
import { expertPosition, type Program, positionOf } from '../plan/index.ts';
import {
  type HostTensor,
  type LazyTensor,
  openSafetensors,
  type SafetensorsReader,
  writeSafetensors,
  zeros,
} from '../tensor/index.ts';
import type { ParamGroup } from './param-group.ts';
import type { ShardReport } from './protocol.ts';

/** Names of tensors in checkpoints: `param/<path>`, `state/<path>`, `optim/<slot>/<path>`. */
export const tensorName = {
  param: (path: string): string => `param/${path}`,
  state: (path: string): string => `state/${path}`,
  slot: (slot: string, path: string): string => `optim/${slot}/${path}`,
};

/** A checkpoint does not have what this rank needs, or has it in another shape. */
export class CheckpointMismatch extends Error {
  override readonly name = 'CheckpointMismatch';
}

/** Draws initial parameters; optimizer state starts at zero. Values depend on the seed and the paths only. */
export function initialiseGroups(engine: Engine, groups: readonly ParamGroup[], seed: number): void {
  for (const group of groups) {
    const params = initParams(group.params, seed);
    const state = initState(group.state);
    for (const param of group.params) {
      param.tensor = engine.upload(params[param.path] as HostTensor);
      param.slots = param.slotNames.map(() => engine.upload(zeros('float32', param.spec.shape)));
    }
    for (const held of group.state) held.tensor = engine.upload(state[held.path] as HostTensor);
  }
}

/**
 * Reads what the groups need from a checkpoint that any mesh may have written: only the files and tensors concerned.
 * Returns the number of completed steps.
 * @throws CheckpointMismatch naming the tensor, if one is missing or has another shape
 */
export async function loadGroups(engine: Engine, groups: readonly ParamGroup[], folder: string): Promise<number> {
  const index = await readIndex(folder);
  const fileOf = new Map(index.shards.flatMap(({ file, tensors }) => tensors.map((name) => [name, file] as const)));
  const readers = new Map<string, Promise<SafetensorsReader>>();
  const read = async (name: string, shape: readonly number[]) => {
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
    return engine.upload(tensor);
  };
  try {
    for (const group of groups) {
      for (const param of group.params) {
        const { shape } = param.spec;
        param.tensor = await read(tensorName.param(param.path), shape);
        param.slots = [];
        for (const slot of param.slotNames) param.slots.push(await read(tensorName.slot(slot, param.path), shape));
      }
      for (const state of group.state) state.tensor = await read(tensorName.state(state.path), state.spec.shape);
    }
  } finally {
    for (const reader of readers.values()) await reader.then((open) => open.close()).catch(() => undefined);
  }
  return index.step;
}

/**
 * Writes this rank's shard: of what several ranks hold, the one with the lowest data index writes it. Returns no shard
 * if there is nothing to write. The file is on the disk (fsync) when this resolves.
 */
export async function writeShard(
  engine: Engine,
  groups: readonly ParamGroup[],
  program: Program,
  folder: string,
): Promise<ShardReport[]> {
  const { data, pipeline } = positionOf(program.mesh, program.rank);
  const { group: expertGroup } = expertPosition(program.mesh, data);
  const mine = groups.filter((group) => (group.expert ? expertGroup === 0 : data === 0));
  const tensors: Record<string, LazyTensor> = {};
  for (const group of mine) {
    for (const param of group.params) {
      tensors[tensorName.param(param.path)] = lazy(engine, () => param.tensor, param.spec.shape);
      param.slotNames.forEach((slot, i) => {
        tensors[tensorName.slot(slot, param.path)] = lazy(engine, () => param.slots[i], param.spec.shape);
      });
    }
    for (const state of group.state)
      tensors[tensorName.state(state.path)] = lazy(engine, () => state.tensor, state.spec.shape);
  }
  if (Object.keys(tensors).length === 0) return [];
  const file = `shard-p${pipeline}-d${data}.safetensors`;
  const { sha256 } = await writeSafetensors(join(folder, file), tensors);
  return [{ file, sha256, tensors: Object.keys(tensors) }];
}

function lazy(
  engine: Engine,
  tensor: () => ParamGroup['params'][number]['tensor'] | undefined,
  shape: readonly number[],
): LazyTensor {
  return {
    dtype: 'float32',
    shape,
    load: async () => {
      const found = tensor();
      if (!found) throw new Error('an optimizer slot that was announced is gone');
      return engine.host(found) ?? (await engine.download(found));
    },
  };
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
