import type { Tensor } from '@tensorflow/tfjs-core';
import { traceComposite } from '../backend.ts';
import { einsum } from '../einsum.ts';
import { tf } from '../tf.ts';
import { type Inputs, input, list, node, type Values } from './helpers.ts';

// Contractions.
traceComposite('Einsum', (inputs, attrs) => einsum(attrs.equation as string, list(inputs)));
traceComposite('_FusedMatMul', (inputs, attrs) =>
  activated(
    tf.matMul(input(inputs, 'a'), input(inputs, 'b'), attrs.transposeA as boolean, attrs.transposeB as boolean),
    inputs,
    attrs,
  ),
);
traceComposite('FusedConv2D', (inputs, attrs) =>
  activated(
    node('Conv2D', { x: input(inputs, 'x'), filter: input(inputs, 'filter') }, convAttrs(attrs)),
    inputs,
    attrs,
  ),
);
traceComposite('FusedDepthwiseConv2D', (inputs, attrs) =>
  activated(
    node('DepthwiseConv2dNative', { x: input(inputs, 'x'), filter: input(inputs, 'filter') }, convAttrs(attrs)),
    inputs,
    attrs,
  ),
);
function convAttrs({ strides, pad, dataFormat, dilations, dimRoundingMode }: Values): Values {
  return { strides, pad, dataFormat, dilations, dimRoundingMode };
}
function activated(product: Tensor, inputs: Inputs, attrs: Values): Tensor {
  const x = inputs.bias ? tf.add(product, inputs.bias) : product;
  switch (attrs.activation ?? 'linear') {
    case 'linear':
      return x;
    case 'relu':
      return tf.relu(x);
    case 'elu':
      return tf.elu(x);
    case 'relu6':
      return tf.relu6(x);
    case 'prelu':
      return tf.prelu(x, input(inputs, 'preluActivationWeights'));
    case 'leakyrelu':
      return tf.leakyRelu(x, (attrs.leakyreluAlpha ?? 0.2) as number);
    case 'sigmoid':
      return tf.sigmoid(x);
    default:
      throw new Error(`unknown fused activation ${String(attrs.activation)}`);
  }
}
traceComposite('FusedBatchNorm', (inputs, attrs) => {
  const { x, mean, variance, scale, offset } = inputs as {
    x: Tensor;
    mean: Tensor;
    variance: Tensor;
    scale?: Tensor;
    offset?: Tensor;
  };
  const inverse = tf.rsqrt(tf.add(variance, attrs.varianceEpsilon as number));
  const gain = scale ? tf.mul(inverse, scale) : inverse;
  const centred = tf.mul(tf.sub(x, mean), gain);
  return offset ? tf.add(centred, offset) : centred;
});
