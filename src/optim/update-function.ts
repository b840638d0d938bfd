import * as tf from '@tensorflow/tfjs-core';
import type { Signature, TensorFunction } from '../engine/index.ts';
import { type Optimizer, type ParamInfo, type StepPhase, scalarCount } from './optimizer.ts';

/** An optimizer's update of one parameter in the form that an engine compiles. */
export interface UpdateFunction {
  /**
   * Inputs: parameter, gradient, slots, scalars (`optimizer.scalars`, then `optimizer.numbers`; each float32 `[]`), and with `clipping` the clip
   * scale. Outputs: parameter, slots.
   */
  readonly fn: TensorFunction;
  readonly signature: readonly Signature[];
}

/** Builds the update of a parameter; equal shapes, phases and `groupKey`s give the same graph, so they can share an executable. */
export function updateFunction(
  optimizer: Optimizer,
  info: ParamInfo,
  options: { readonly clipping: boolean; readonly phase?: StepPhase | undefined },
): UpdateFunction {
  const tensor: Signature = { dtype: 'float32', shape: info.shape };
  const scalar: Signature = { dtype: 'float32', shape: [] };
  const slots = optimizer.slots(info).length;
  const scalars = scalarCount(optimizer);
  return {
    signature: [
      ...Array.from({ length: 2 + slots }, () => tensor),
      ...Array.from({ length: scalars + (options.clipping ? 1 : 0) }, () => scalar),
    ],
    fn: (param, gradient, ...rest) => {
      const scale = options.clipping ? rest[slots + scalars] : undefined;
      const grad = scale === undefined ? gradient : tf.mul(gradient as tf.Tensor, scale);
      return optimizer.update(
        param as tf.Tensor,
        grad as tf.Tensor,
        rest.slice(0, slots),
        rest.slice(slots, slots + scalars),
        info,
        options.phase,
      );
    },
  };
}
