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

/** Whether a tensor of this name should be the same bits on every rank that holds it, and is a parameter or state. */
export function sharedModelTensor(name: string): boolean {
  return name.startsWith(tensorName.param('')) || name.startsWith(tensorName.state(''));
}

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
 * Of what several ranks hold the one with the lowest data index writes. With local steps the parameters and state that go
 * by their plain names are those that all replicas began the round with, and what each replica has made of them since
 * goes by its number.
 */
export function heldTensors(groups: readonly ParamGroup[], program: Program): HeldTensor[] {
  const { data } = positionOf(program.mesh, program.rank);
  const { group: expertGroup } = expertPosition(program.mesh, data);
  const own = (name: string): string => (program.local ? tensorName.replica(data, name) : name);
  const held: HeldTensor[] = [];
  for (const group of groups) {
    const first = group.expert ? expertGroup === 0 : data === 0;
    const writes = program.local ? true : first;
    for (const param of group.params) {
      const { path } = param;
      const { shape } = param.spec;
      const { outer } = param;
      held.push({ name: own(tensorName.param(path)), shape, writes, ...property(param, 'tensor') });
      if (outer) {
        held.push({ name: tensorName.param(path), shape, writes: first, ...property(outer, 'anchor') });
        for (const [i, slot] of outer.slotNames.entries())
          held.push({
            name: tensorName.slot(`outer.${slot}`, path),
            shape,
            writes: first,
            tensor: () => outer.slots[i] as DeviceTensor,
            set: (tensor) => {
              outer.slots[i] = tensor;
            },
          });
      }
      if (param.residual) {
        const name = tensorName.replica(data, tensorName.residual(path));
        held.push({ name, shape, writes: true, optional: true, ...property(param as HasResidual, 'residual') });
      }
      if (param.keepsSlots === false) continue;
      // Sharded state has one keeper, whichever replica that is.
      for (const [i, slot] of param.slotNames.entries())
        held.push({
          name: own(tensorName.slot(slot, path)),
          shape,
          writes: param.keepsSlots ?? writes,
          tensor: () => param.slots[i] as DeviceTensor,
          set: (tensor) => {
            param.slots[i] = tensor;
          },
        });
    }
    for (const state of group.state) {
      const { shape } = state.spec;
      held.push({ name: own(tensorName.state(state.path)), shape, writes, ...property(state, 'tensor') });
      if (state.outer)
        held.push({ name: tensorName.state(state.path), shape, writes: first, ...property(state.outer, 'anchor') });
    }
  }
  return held;
}

type HasResidual = { residual: DeviceTensor };

/** Reads and sets a property of whoever holds a tensor. */
function property<K extends string>(holder: { [key in K]: DeviceTensor }, key: K): Pick<HeldTensor, 'tensor' | 'set'> {
  return {
    tensor: () => holder[key],
    set: (tensor) => {
      (holder as Record<string, DeviceTensor>)[key] = tensor;
    },
  };
}

/** Name of the shard file that a rank writes. */
export function shardFile(program: Program): string {
  const { data, pipeline } = positionOf(program.mesh, program.rank);
  return `shard-p${pipeline}-d${data}.safetensors`;
}
