import type { Tensor } from '@tensorflow/tfjs-core';
import { EngineError, placeName } from '../errors.ts';
import { isTracing, recorder } from './backend.ts';
import { backpropagate, withTape } from './backprop.ts';
import { withTraceGradients } from './gradients/index.ts';
import { fullPath } from './path.ts';
import { tf } from './tf.ts';

/** What a function returned, and the gradient of its objective by each tensor that was asked for. */
export interface ValueAndGradients<T> {
  readonly value: T;
  /** In the order of `wrt`, each of that tensor's shape; zeros where the objective does not depend on it. */
  readonly gradients: readonly Tensor[];
}

/**
 * The gradient of a scalar inside of a traced function, in place of tf.grads: the forward and the backward become part of
 * the graph that is being recorded, so that whole training steps, several of them, or a step that looks at two gradients
 * can be compiled into one executable. Calls may follow one another but not nest.
 * @param fn computes on tensors of the trace and returns what it likes
 * @param objective picks the float32 scalar that is differentiated
 * @throws EngineError outside of a trace, or if the objective is not a float32 scalar
 */
export function valueAndGradients<T>(
  fn: () => T,
  objective: (value: T) => Tensor,
  wrt: readonly Tensor[],
): ValueAndGradients<T> {
  if (!isTracing())
    throw new EngineError(
      'valueAndGradients was called outside of a traced function; compile the function that calls it, or use tf.valueAndGrads',
    );
  const trace = recorder();
  return withTraceGradients(() =>
    withTape(fn, (value, tape) => {
      const scalar = objective(value);
      if (scalar.dtype !== 'float32' || scalar.rank !== 0)
        throw new EngineError(
          `${placeName(fullPath())}: a gradient was asked for of a ${scalar.dtype} tensor of shape [${scalar.shape}]; the objective must be a float32 scalar`,
          { path: fullPath() },
        );
      const before = trace.backward;
      trace.backward = true;
      try {
        const cotangents = backpropagate(trace, tape, wrt, [[scalar, tf.scalar(1)]]);
        return { value, gradients: wrt.map((tensor) => cotangents.get(tensor.id) ?? tf.zerosLike(tensor)) };
      } finally {
        trace.backward = before;
      }
    }),
  );
}
