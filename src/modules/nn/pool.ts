import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Module } from '../module.ts';

/** Options of the pools. */
export interface PoolOptions {
  /** Side of the window. Default 2. */
  readonly size?: number;
  /** Default `size`. */
  readonly stride?: number;
  /** Default `valid`. */
  readonly padding?: 'same' | 'valid';
}

/** Maximum over windows: `[batch, height, width, channels]` → the same, smaller. */
export function maxPool2d(options: PoolOptions = {}): Module {
  const { size = 2, stride = size, padding = 'valid' } = options;
  return { kind: 'maxPool2d', forward: (_params, [x]) => tf.maxPool(image(x), size, stride, padding) };
}

/** Mean over windows: `[batch, height, width, channels]` → the same, smaller. */
export function avgPool2d(options: PoolOptions = {}): Module {
  const { size = 2, stride = size, padding = 'valid' } = options;
  return { kind: 'avgPool2d', forward: (_params, [x]) => tf.avgPool(image(x), size, stride, padding) };
}

/** Mean over all axes between the first and the last: `[batch, ..., channels]` → `[batch, channels]`. */
export function globalAvgPool(): Module {
  return { kind: 'globalAvgPool', forward: (_params, [x]) => tf.mean(x, innerAxes(x)) };
}

/** Maximum over all axes between the first and the last: `[batch, ..., channels]` → `[batch, channels]`. */
export function globalMaxPool(): Module {
  return { kind: 'globalMaxPool', forward: (_params, [x]) => tf.max(x, innerAxes(x)) };
}

/** `[batch, ...]` → `[batch, product of the rest]`. */
export function flatten(): Module {
  return {
    kind: 'flatten',
    forward: (_params, [x]) => tf.reshape(x, [x.shape[0] ?? 1, -1]),
  };
}

function innerAxes(x: Tensor): number[] {
  if (x.rank < 3) throw new Error(`expected [batch, ..., channels] with something between, not [${x.shape}]`);
  return Array.from({ length: x.rank - 2 }, (_, i) => i + 1);
}

function image(x: Tensor | undefined): tf.Tensor4D {
  if (x?.rank !== 4) throw new Error(`expected [batch, height, width, channels], not [${x?.shape}]`);
  return x as tf.Tensor4D;
}
