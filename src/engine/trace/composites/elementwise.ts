import { sizeOf } from '../../../tensor/index.ts';
import { traceComposite } from '../backend.ts';
import { sameShape } from '../recorder.ts';
import { tf } from '../tf.ts';
import { aliased, input, list, node } from './helpers.ts';

// What only renames a buffer.
// tfjs saves a missing optional input (batch norm's scale) for the gradient by cloning undefined: it counts as 1.
traceComposite('Identity', (inputs) => (inputs.x ? aliased(inputs.x) : tf.scalar(1)));
traceComposite('Reshape', (inputs, attrs) => {
  const x = input(inputs, 'x');
  const shape = tf.util.inferFromImplicitShape(attrs.shape as number[], sizeOf(x.shape));
  return sameShape(shape, x.shape) ? aliased(x) : node('Reshape', { x }, { shape });
});
traceComposite('ExpandDims', (inputs, attrs) => {
  const x = input(inputs, 'input');
  const shape = [...x.shape];
  const dim = attrs.dim as number;
  shape.splice(dim < 0 ? x.shape.length + dim + 1 : dim, 0, 1);
  return node('Reshape', { x }, { shape });
});
traceComposite('Cast', (inputs, attrs) => {
  const x = input(inputs, 'x');
  return attrs.dtype === x.dtype ? aliased(x) : node('Cast', { x }, { dtype: attrs.dtype });
});

// Constants.
traceComposite('ZerosLike', (inputs) => tf.fill(input(inputs, 'x').shape, 0, input(inputs, 'x').dtype as 'float32'));
traceComposite('OnesLike', (inputs) => tf.fill(input(inputs, 'x').shape, 1, input(inputs, 'x').dtype as 'float32'));
traceComposite('LinSpace', (_inputs, attrs) => {
  const { start, stop, num } = attrs as { start: number; stop: number; num: number };
  const step = num > 1 ? (stop - start) / (num - 1) : 0;
  return tf.tensor1d(Float32Array.from({ length: num }, (_, i) => start + i * step));
});

// Element-wise.
traceComposite('AddN', (inputs) => list(inputs).reduce((sum, term) => tf.add(sum, term)));
traceComposite('SquaredDifference', (inputs) => tf.square(tf.sub(input(inputs, 'a'), input(inputs, 'b'))));
traceComposite('Relu6', (inputs) => tf.clipByValue(input(inputs, 'x'), 0, 6));
traceComposite('Select', (inputs) => {
  const t = input(inputs, 't');
  const condition = input(inputs, 'condition');
  if (sameShape(condition.shape, t.shape)) return node('Select', inputs);
  const column = tf.reshape(condition, [condition.shape[0] as number, ...t.shape.slice(1).map(() => 1)]);
  return node('Select', { ...inputs, condition: tf.broadcastTo(column, t.shape) });
});
