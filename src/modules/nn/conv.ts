import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import * as init from '../init.ts';
import type { Initializer, Module, ParamSpec } from '../module.ts';
import { param } from '../param.ts';

/** Options of the convolutions. Strides and dilations are the same along every axis. */
export interface ConvOptions {
  /** Taps along each axis. Default 3. */
  readonly kernel?: number;
  readonly stride?: number;
  readonly dilation?: number;
  /** `same` keeps sizes (divided by the stride, rounded up); `valid` uses no padding. Default `same`. */
  readonly padding?: 'same' | 'valid';
  /** Default true. */
  readonly bias?: boolean;
  /** Default: kaiming normal for relu. */
  readonly init?: Initializer;
}

/** Convolution over `[batch, time, in]` → `[batch, time', out]`. `weight` is `[kernel, in, out]`. */
export function conv1d(inputs: number, outputs: number, options: ConvOptions = {}): Module {
  const { kernel, stride, dilation, padding, bias, weightInit } = filled(options);
  return {
    kind: 'conv1d',
    params: { weight: param([kernel, inputs, outputs], weightInit), ...biasOf(bias, outputs) },
    forward(params, [x]) {
      const input = channelsLast(x, 3, inputs) as tf.Tensor3D;
      const y = tf.conv1d(input, params.weight as tf.Tensor3D, stride, padding, 'NWC', dilation);
      return bias ? tf.add(y, params.bias) : y;
    },
  };
}

/** Convolution over `[batch, height, width, in]` → `[batch, height', width', out]`. `weight` is `[kernel, kernel, in, out]`. */
export function conv2d(inputs: number, outputs: number, options: ConvOptions = {}): Module {
  const { kernel, stride, dilation, padding, bias, weightInit } = filled(options);
  return {
    kind: 'conv2d',
    params: { weight: param([kernel, kernel, inputs, outputs], weightInit), ...biasOf(bias, outputs) },
    forward(params, [x]) {
      const input = channelsLast(x, 4, inputs) as tf.Tensor4D;
      const y = tf.conv2d(input, params.weight as tf.Tensor4D, stride, padding, 'NHWC', dilation);
      return bias ? tf.add(y, params.bias) : y;
    },
  };
}

/**
 * Convolution of each channel by itself: `[batch, height, width, channels]` → `[..., channels * multiplier]`. `weight`
 * is `[kernel, kernel, channels, multiplier]`.
 */
export function depthwiseConv2d(
  channels: number,
  options: ConvOptions & { readonly multiplier?: number } = {},
): Module {
  const { kernel, stride, dilation, padding, bias } = filled(options);
  const { multiplier = 1 } = options;
  // Each output sees one channel only, so the fan-in is the number of taps.
  const weightInit = options.init ?? init.normal(Math.SQRT2 / kernel);
  return {
    kind: 'depthwiseConv2d',
    params: {
      weight: param([kernel, kernel, channels, multiplier], weightInit),
      ...biasOf(bias, channels * multiplier),
    },
    forward(params, [x]) {
      const input = channelsLast(x, 4, channels) as tf.Tensor4D;
      const y = tf.depthwiseConv2d(input, params.weight as tf.Tensor4D, stride, padding, 'NHWC', dilation);
      return bias ? tf.add(y, params.bias) : y;
    },
  };
}

/** A depthwise convolution without bias (child `depthwise`), then a 1×1 convolution (child `pointwise`) (Howard et al. 2017). */
export function separableConv2d(inputs: number, outputs: number, options: ConvOptions = {}): Module {
  return {
    kind: 'separableConv2d',
    children: {
      depthwise: depthwiseConv2d(inputs, { ...options, bias: false }),
      pointwise: conv2d(inputs, outputs, { kernel: 1, bias: options.bias }),
    },
    forward: (_params, [x], ctx) => ctx.run('pointwise', ctx.run('depthwise', x)),
  };
}

function filled(options: ConvOptions) {
  const {
    kernel = 3,
    stride = 1,
    dilation = 1,
    padding = 'same',
    bias = true,
    init: weightInit = init.kaimingNormal(),
  } = options;
  if (stride > 1 && dilation > 1)
    throw new RangeError(`a convolution takes a stride (${stride}) or a dilation (${dilation}), not both`);
  return { kernel, stride, dilation, padding, bias, weightInit };
}

function biasOf(bias: boolean, outputs: number): Record<string, ParamSpec> {
  return bias ? { bias: param([outputs], init.zeros) } : {};
}

function channelsLast(x: Tensor | undefined, rank: number, channels: number): Tensor {
  if (!x || x.rank !== rank || x.shape[rank - 1] !== channels)
    throw new Error(`expected [batch, ${rank === 3 ? 'time' : 'height, width'}, ${channels}], not [${x?.shape}]`);
  return x;
}
