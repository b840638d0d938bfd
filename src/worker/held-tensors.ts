import type { DeviceTensor } from '../engine/index.ts';
import { expertPosition, type Program, positionOf } from '../plan/index.ts';
import type { ParamGroup } from './param-group.ts';

/** Names of tensors in checkpoints: `param/<path>`, `state/<path>`, `optim/<slot>/<path>`. */
export const tensorName = {
  param: (path: string): string => `param/${path}`,
  state: (path: string): string => `state/${path}`,
  slot: (slot: string, path: string): string => `optim/${slot}/${path}`,
  /** What each data rank has its own of. */
  replica: (data: number, name: string): string => `replica/${data}/${name}`,
  residual: (path: string): string => `residual/${path}`,
};

/** A tensor that lasts from step to step, as held by a rank: a parameter, an optimizer slot or module state. */
export interface HeldTensor {
  /** As in checkpoints. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether it is this rank that writes it to checkpoints, of all that hold it. */
  readonly writes: boolean;
  /** It is zero where its source does not have it: a run may go on with another mesh or other settings. */
  readonly optional?: boolean;
  /** The value as it is now: another handle after each step. Float32. */
  tensor(): DeviceTensor;
  /** Gives it its first value. */
  set(tensor: DeviceTensor): void;
}

/**
 * All that a rank holds from step to step, in a fixed order. Optimizer slots that another replica keeps are not in it.
 * Of what several ranks hold the one with the lowest data index writes.
 */
export function heldTensors(groups: readonly ParamGroup[], program: Program): HeldTensor[] {
  const { data } = positionOf(program.mesh, program.rank);
  const { group: expertGroup } = expertPosition(program.mesh, data);
  const held: HeldTensor[] = [];
  for (const group of groups) {
    const first = group.expert ? expertGroup === 0 : data === 0;
    for (const param of group.params) {
      const { shape } = param.spec;
      held.push({
        name: tensorName.param(param.path),
        shape,
        writes: first,
        tensor: () => param.tensor,
        set: (tensor) => {
          param.tensor = tensor;
        },
      });
      if (param.residual)
        held.push({
          name: tensorName.replica(data, tensorName.residual(param.path)),
          shape,
          writes: true,
          optional: true,
          tensor: () => param.residual as DeviceTensor,
          set: (tensor) => {
            param.residual = tensor;
          },
        });
      if (param.keepsSlots === false) continue;
      for (const [i, slot] of param.slotNames.entries())
        held.push({
          name: tensorName.slot(slot, param.path),
          shape,
          // Sharded state has one keeper, whichever replica that is.
          writes: param.keepsSlots ?? first,
          tensor: () => param.slots[i] as DeviceTensor,
          set: (tensor) => {
            param.slots[i] = tensor;
          },
        });
    }
    for (const state of group.state)
      held.push({
        name: tensorName.state(state.path),
        shape: state.spec.shape,
        writes: first,
        tensor: () => state.tensor,
        set: (tensor) => {
          state.tensor = tensor;
        },
      });
  }
  return held;
}

/** Name of the shard file that a rank writes. */
export function shardFile(program: Program): string {
  const { data, pipeline } = positionOf(program.mesh, program.rank);
  return `shard-p${pipeline}-d${data}.safetensors`;
}
