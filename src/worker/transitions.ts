import type { DeviceTensor } from '../engine/index.ts';
import { float32 } from '../tensor/index.ts';
import { paramInfo } from './compiled.ts';
import type { HeldParam, ParamGroup } from './param-group.ts';
import type { TensorSpace } from './tensor-space.ts';
import type { Transition, TransitionAnswers } from './training-objective.ts';

/**
 * Lets a transition change all parameters of a rank and their slots. Returns what it says of each, by path.
 * @throws Error where another replica keeps the slots: then no rank has all that it needs
 */
export async function changeGroups(
  space: TensorSpace,
  groups: readonly ParamGroup[],
  transition: Transition,
  args: unknown,
): Promise<TransitionAnswers> {
  const answers: Record<string, unknown> = {};
  for (const param of groups.flatMap((group) => group.params)) {
    if (!transition.valuesOnly && param.keepsSlots !== undefined && param.slotNames.length > 0)
      throw new Error(
        `the optimizer state of ${param.path} is sharded over replicas, but the scheduler changes it: set parallel.zero to 0`,
      );
    const answer = await changeParam(space, param, transition, args);
    if (answer !== undefined) answers[param.path] = answer;
  }
  return answers;
}

async function changeParam(
  space: TensorSpace,
  param: HeldParam,
  transition: Transition,
  args: unknown,
): Promise<unknown> {
  const read = async (tensor: DeviceTensor): Promise<Float32Array> =>
    ((await space.read(tensor)).data as Float32Array).slice();
  const value = await read(param.tensor);
  const slots: Record<string, Float32Array> = {};
  const names = transition.valuesOnly ? [] : param.slotNames;
  for (const [i, name] of names.entries()) slots[name] = await read(param.slots[i] as DeviceTensor);
  const answer = transition({ info: paramInfo(param), value, slots }, args);
  const { shape } = param.spec;
  const renew = (old: DeviceTensor, values: Float32Array): DeviceTensor => {
    space.give(old);
    return space.engine.upload(float32(values, shape));
  };
  param.tensor = renew(param.tensor, value);
  if (transition.valuesOnly) return answer;
  param.slots = names.map((name, i) => renew(param.slots[i] as DeviceTensor, slots[name] as Float32Array));
  return answer;
}
