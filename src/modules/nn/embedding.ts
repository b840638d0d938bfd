import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Initializer, Module } from '../module.ts';
import { param } from '../param.ts';

/** A table of vectors looked up by id: int32 `[...]` → float32 `[..., dim]`. `weight` is `[size, dim]`. */
export function embedding(
  size: number,
  dim: number,
  options: { readonly init?: Initializer; readonly decay?: boolean } = {},
): Module {
  return {
    kind: 'embedding',
    params: { weight: param([size, dim], options.init ?? init.normal(0.02), { decay: options.decay ?? false }) },
    forward({ weight }, [ids]) {
      if (ids?.dtype !== 'int32') throw new Error(`an embedding looks up int32 ids, not ${ids?.dtype ?? 'nothing'}`);
      const flat = ids.rank === 1 ? ids : tf.reshape(ids, [-1]);
      const rows = tf.gather(weight, flat as tf.Tensor1D);
      return ids.rank === 1 ? rows : tf.reshape(rows, [...ids.shape, dim]);
    },
  };
}

/**
 * Adds a learned vector to each position: float32 `[batch, time, dim]`, `time` at most `length`. `weight` is
 * `[length, dim]`.
 */
export function learnedPositions(length: number, dim: number, options: { readonly init?: Initializer } = {}): Module {
  return {
    kind: 'learnedPositions',
    params: { weight: param([length, dim], options.init ?? init.normal(0.02), { decay: false }) },
    forward({ weight }, [x]) {
      const time = x?.shape[1];
      if (x?.rank !== 3 || time === undefined || time > length || x.shape[2] !== dim)
        throw new Error(`expected [batch, time ≤ ${length}, ${dim}], not [${x?.shape}]`);
      const table = time === length ? weight : tf.slice(weight, [0, 0], [time, dim]);
      return tf.add(x, table);
    },
  };
}
