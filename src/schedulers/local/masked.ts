import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/**
 * Training under a mask that whoever asks for the fit gives (1: trained, 0: stays as it is): gradients are multiplied by it, so
 * that weights which are pruned, and 0 at the start, are 0 after any number of steps of any optimizer here.
 */
export function masked(): LocalObjective {
  return {
    name: 'masked',
    tensors: [{ name: 'mask', shape: 'param', scope: 'round' }],
    transform: (gradient, _, { mask }) => tf.mul(gradient, mask as tf.Tensor),
  };
}

registerObjective({ name: 'masked', config: z.object({}), make: masked });
