import type { Signature } from '../../engine.ts';
import type { Attr, GraphDType } from '../../graph.ts';
import { defineKernel } from '../definition.ts';
import { tf } from '../tf.ts';

const first = (inputs: readonly Signature[]): Signature => inputs[0] as Signature;

/** Reductions: the axes are a sorted list of non-negative numbers, under tfjs's attribute name. */
function defineReduction(
  kernel: string,
  attribute: 'axis' | 'reductionIndices',
  dtypeOf: (dtype: GraphDType) => GraphDType,
) {
  defineKernel(kernel, ['x'], (inputs, attrs) => {
    const x = first(inputs);
    const axes = axesOf(attrs[attribute] ?? null, x.shape.length);
    const keepDims = attrs.keepDims === true;
    const shape = x.shape.flatMap((dim, i) => (axes.includes(i) ? (keepDims ? [1] : []) : [dim]));
    return { outputs: [{ dtype: dtypeOf(x.dtype), shape }], attrs: { [attribute]: axes, keepDims } };
  });
}

function axesOf(axis: Attr, rank: number): number[] {
  const shape = new Array<number>(rank).fill(1);
  return tf.util.parseAxisParam(axis as number[], shape).sort((a, b) => a - b);
}

const arithmetic = (dtype: GraphDType): GraphDType => (dtype === 'bool' ? 'int32' : dtype);
defineReduction('Sum', 'axis', arithmetic);
defineReduction('Prod', 'axis', arithmetic);
defineReduction('Mean', 'axis', () => 'float32');
defineReduction('Max', 'reductionIndices', (dtype) => dtype);
defineReduction('Min', 'axis', (dtype) => dtype);
defineReduction('All', 'axis', () => 'bool');
defineReduction('Any', 'axis', () => 'bool');

/** Index of the first extreme element along one non-negative `axis`. */
for (const kernel of ['ArgMax', 'ArgMin'])
  defineKernel(kernel, ['x'], (inputs, attrs) => {
    const x = first(inputs);
    const axis = (axesOf(attrs.axis ?? 0, x.shape.length)[0] ?? 0) as number;
    return { outputs: [{ dtype: 'int32', shape: x.shape.filter((_, i) => i !== axis) }], attrs: { axis } };
  });

/** Along the last axis, non-negative `dim`. */
defineKernel('Softmax', ['logits'], (inputs) => {
  const x = first(inputs);
  return { outputs: [x], attrs: { dim: x.shape.length - 1 } };
});
defineKernel('LogSoftmax', ['logits'], (inputs) => {
  const x = first(inputs);
  return { outputs: [x], attrs: { axis: x.shape.length - 1 } };
});

/** Running sum along a non-negative `axis`; `exclusive` starts from 0, `reverse` runs from the end. */
defineKernel('Cumsum', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const axis = axesOf(attrs.axis ?? 0, x.shape.length)[0] as number;
  const outputs: Signature[] = [{ dtype: arithmetic(x.dtype), shape: x.shape }];
  return { outputs, attrs: { axis, exclusive: attrs.exclusive === true, reverse: attrs.reverse === true } };
});

/** The `k` largest of the last axis, largest first, the lower index first among equals: values, and int32 indices. */
defineKernel('TopK', ['x'], (inputs, attrs) => {
  const x = first(inputs);
  const shape = [...x.shape.slice(0, -1), attrs.k as number];
  return {
    outputs: [
      { dtype: x.dtype, shape },
      { dtype: 'int32', shape },
    ],
    attrs: { k: attrs.k as number, sorted: true },
  };
});

/** Names of the kernels of this file, for registration. */
export const reduceKernels = [
  'Sum',
  'Prod',
  'Mean',
  'Max',
  'Min',
  'All',
  'Any',
  'ArgMax',
  'ArgMin',
  'Softmax',
  'LogSoftmax',
  'Cumsum',
  'TopK',
];
