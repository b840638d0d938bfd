import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { ModuleError } from './errors.ts';
import type { Module } from './module.ts';
import { withoutGradient } from './no-gradient.ts';
import { expertPath } from './structure.ts';

/** What runs a module at a path. */
interface Runner {
  run(module: Module, path: string, inputs: readonly Tensor[]): readonly Tensor[];
}

/**
 * Runs the experts of the module at `path` without dispatching: each on all rows `[n, d]`, of which those that are its own are
 * kept. `counts` int32 `[experts]`; rows past their sum come back as zeros. No gradient flows from rows that an expert was not
 * given, so results and gradients are those of a dispatch.
 * @throws ModuleError if an expert returns rows of another shape
 */
export function runExpertsHere(runner: Runner, module: Module, path: string, rows: Tensor, counts: Tensor): Tensor {
  const experts = module.experts ?? [];
  const [n] = rows.shape as [number, number];
  // [n, experts]: 1 where a row belongs to an expert.
  const own = withoutGradient(() => {
    const end = tf.cumsum(tf.cast(counts, 'float32'), 0);
    const start = tf.sub(end, counts);
    const at = tf.tensor2d(
      Float32Array.from({ length: n }, (_, i) => i),
      [n, 1],
    );
    return tf.cast(tf.logicalAnd(tf.greaterEqual(at, start), tf.less(at, end)), 'float32');
  });
  return experts
    .map((expert, i) => {
      const [output, ...more] = runner.run(expert, expertPath(path, i), [rows]);
      if (more.length > 0 || String(output?.shape) !== String(rows.shape))
        throw new ModuleError(
          expert.kind,
          expertPath(path, i),
          `returned [${output?.shape}] for rows [${rows.shape}]; an expert returns rows of the same shape`,
        );
      return tf.mul(output as Tensor, tf.slice(own, [0, i], [n, 1]));
    })
    .reduce((sum, each) => tf.add(sum, each));
}
