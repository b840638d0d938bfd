import { sameShape } from '../recorder.ts';
import { tf } from '../tf.ts';
import { gradient, unbroadcast } from './define.ts';

/** Gradients of element-wise kernels. */
export const elementwise = [
  gradient('Relu', { outputs: [true] }, (dy, [y]) => ({
    x: () => tf.where(tf.greater(y, tf.scalar(0)), dy, tf.zerosLike(dy)),
  })),
  gradient('Sqrt', { outputs: [true] }, (dy, [y]) => ({ x: () => tf.div(tf.mul(dy, 0.5), y) })),
  gradient('Rsqrt', { outputs: [true] }, (dy, [y]) => ({
    x: () => tf.mul(tf.mul(dy, -0.5), tf.mul(y, tf.square(y))),
  })),
  gradient('SquaredDifference', { inputs: ['a', 'b'] }, (dy, [a, b]) => {
    const slope = () => tf.mul(dy, tf.mul(tf.sub(a, b), 2));
    return { a: () => unbroadcast(slope(), a.shape), b: () => unbroadcast(tf.neg(slope()), b.shape) };
  }),
  gradient('Maximum', { inputs: ['a', 'b'] }, (dy, [a, b]) => ({
    a: () => unbroadcast(tf.mul(dy, tf.cast(tf.greaterEqual(a, b), 'float32')), a.shape),
    b: () => unbroadcast(tf.mul(dy, tf.cast(tf.less(a, b), 'float32')), b.shape),
  })),
  gradient('Minimum', { inputs: ['a', 'b'] }, (dy, [a, b]) => ({
    a: () => unbroadcast(tf.mul(dy, tf.cast(tf.lessEqual(a, b), 'float32')), a.shape),
    b: () => unbroadcast(tf.mul(dy, tf.cast(tf.greater(a, b), 'float32')), b.shape),
  })),
  gradient('Select', { inputs: ['condition'] }, (dy, [given]) => {
    const shape = [given.shape[0] ?? 1, ...dy.shape.slice(1).map(() => 1)];
    const condition = sameShape(given.shape, dy.shape) ? given : tf.reshape(given, shape);
    return {
      t: () => tf.where(condition, dy, tf.zerosLike(dy)),
      e: () => tf.where(condition, tf.zerosLike(dy), dy),
    };
  }),
];
