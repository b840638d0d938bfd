import { backend_util } from '@tensorflow/tfjs-core';
import type { Shape } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import { type Attrs, defineKernel } from '../definition.ts';

type Shape4 = [number, number, number, number];
type Info = backend_util.Conv2DInfo;

/**
 * Geometry in canonical form: `strides` and `dilations` are `[height, width]`, `pad` is `[before, after]` of each of the
 * four axes in the order of `dataFormat`, such that rounding down gives the output size.
 */
function geometry(info: Info, filter: readonly [number, number]): Attrs {
  const nhwc = info.dataFormat === 'channelsLast';
  const before = [info.padInfo.top, info.padInfo.left] as const;
  const sizes = [
    [info.inHeight, info.outHeight, info.strideHeight, info.dilationHeight],
    [info.inWidth, info.outWidth, info.strideWidth, info.dilationWidth],
  ] as const;
  const pads = sizes.map(([size, out, stride, dilation], i) => {
    const reach = (out - 1) * stride + ((filter[i] as number) - 1) * dilation + 1;
    return [before[i] as number, Math.max(0, reach - size - (before[i] as number))];
  });
  const none = [0, 0];
  return {
    strides: [info.strideHeight, info.strideWidth],
    dilations: [info.dilationHeight, info.dilationWidth],
    pad: nhwc ? [none, ...pads, none] : [none, none, ...pads],
  };
}

function convInfo(inputShape: Shape, filterShape: Shape, attrs: Attrs, depthwise: boolean): Info {
  const format = backend_util.convertConv2DDataFormat((attrs.dataFormat ?? 'NHWC') as 'NHWC');
  return backend_util.computeConv2DInfo(
    [...inputShape] as Shape4,
    [...filterShape] as Shape4,
    attrs.strides as [number, number],
    (attrs.dilations ?? 1) as number,
    attrs.pad as never,
    attrs.dimRoundingMode as 'floor',
    depthwise,
    format,
  );
}

function convAttrs(info: Info, attrs: Attrs): Attrs {
  const dataFormat = attrs.dataFormat ?? 'NHWC';
  return { ...geometry(info, [info.filterHeight, info.filterWidth]), dataFormat };
}

/** Convolutions, filter `[height, width, in, out]` (depthwise: `[height, width, in, multiplier]`). */
for (const kernel of ['Conv2D', 'DepthwiseConv2dNative'])
  defineKernel(kernel, ['x', 'filter'], (inputs, attrs) => {
    const [x, filter] = inputs as [Signature, Signature];
    const info = convInfo(x.shape, filter.shape, attrs, kernel === 'DepthwiseConv2dNative');
    return { outputs: [{ dtype: 'float32', shape: info.outShape }], attrs: convAttrs(info, attrs) };
  });

/** Convolutions plus a bias `[out]`: what passes make of the two. */
for (const kernel of ['PlexusConv2D', 'PlexusDepthwiseConv2D'])
  defineKernel(kernel, ['x', 'filter', 'bias'], (inputs, attrs) => {
    const [x, filter, bias] = inputs as [Signature, Signature, Signature];
    const info = convInfo(x.shape, filter.shape, attrs, kernel === 'PlexusDepthwiseConv2D');
    if (bias.shape.length !== 1 || bias.shape[0] !== info.outChannels)
      throw new RangeError(
        `a bias of shape [${bias.shape}] is added to a convolution with ${info.outChannels} channels`,
      );
    return { outputs: [{ dtype: 'float32', shape: info.outShape }], attrs: convAttrs(info, attrs) };
  });

/** Gradient of a convolution by its input; also the transposed convolution. */
for (const kernel of ['Conv2DBackpropInput', 'DepthwiseConv2dNativeBackpropInput'])
  defineKernel(kernel, ['dy', 'filter'], (inputs, attrs) => {
    const inputShape = [...(attrs.inputShape as number[])];
    const filter = (inputs[1] as Signature).shape;
    const info = convInfo(inputShape, filter, attrs, kernel !== 'Conv2DBackpropInput');
    return { outputs: [{ dtype: 'float32', shape: inputShape }], attrs: { ...convAttrs(info, attrs), inputShape } };
  });

/** Gradient of a convolution by its filter. */
for (const kernel of ['Conv2DBackpropFilter', 'DepthwiseConv2dNativeBackpropFilter'])
  defineKernel(kernel, ['x', 'dy'], (inputs, attrs) => {
    const filterShape = [...(attrs.filterShape as number[])];
    const x = (inputs[0] as Signature).shape;
    const info = convInfo(x, filterShape, attrs, kernel !== 'Conv2DBackpropFilter');
    return { outputs: [{ dtype: 'float32', shape: filterShape }], attrs: { ...convAttrs(info, attrs), filterShape } };
  });

function poolInfo(inputShape: Shape, attrs: Attrs, kind: 'max' | 'avg'): Info {
  return backend_util.computePool2DInfo(
    [...inputShape] as Shape4,
    attrs.filterSize as [number, number],
    attrs.strides as [number, number],
    1,
    attrs.pad as never,
    attrs.dimRoundingMode as 'floor',
  ) as Info & { poolKind?: typeof kind };
}

function poolAttrs(info: Info): Attrs {
  const { strides, pad } = geometry(info, [info.filterHeight, info.filterWidth]) as {
    strides: number[];
    pad: number[][];
  };
  return { filterSize: [info.filterHeight, info.filterWidth], strides, pad };
}

/** Pooling of NHWC tensors; average pooling does not count padding. */
for (const [kernel, kind] of [
  ['MaxPool', 'max'],
  ['AvgPool', 'avg'],
] as const)
  defineKernel(kernel, ['x'], (inputs, attrs) => {
    const info = poolInfo((inputs[0] as Signature).shape, attrs, kind);
    return { outputs: [{ dtype: 'float32', shape: info.outShape }], attrs: poolAttrs(info) };
  });
defineKernel('MaxPoolGrad', ['dy', 'input', 'output'], (inputs, attrs) => {
  const input = inputs[1] as Signature;
  return { outputs: [{ dtype: 'float32', shape: input.shape }], attrs: poolAttrs(poolInfo(input.shape, attrs, 'max')) };
});
defineKernel('AvgPoolGrad', ['dy', 'input'], (inputs, attrs) => {
  const input = inputs[1] as Signature;
  return { outputs: [{ dtype: 'float32', shape: input.shape }], attrs: poolAttrs(poolInfo(input.shape, attrs, 'avg')) };
});

/** Names of the kernels of this file, for registration. */
export const imageKernels = [
  'Conv2D',
  'PlexusConv2D',
  'PlexusDepthwiseConv2D',
  'DepthwiseConv2dNative',
  'Conv2DBackpropInput',
  'DepthwiseConv2dNativeBackpropInput',
  'Conv2DBackpropFilter',
  'DepthwiseConv2dNativeBackpropFilter',
  'MaxPool',
  'AvgPool',
  'MaxPoolGrad',
  'AvgPoolGrad',
];
