import { sizeOf } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import { defineKernel } from '../definition.ts';

const first = (inputs: readonly Signature[]): Signature => inputs[0] as Signature;
const lastOne = (x: Signature): Signature => ({ dtype: 'float32', shape: [...x.shape.slice(0, -1), 1] });

/** Uniform float32 in [0, 1) from `key` int32 `[2]`: attributes `shape`, `stream` (uint32). See ops/uniform.ts. */
defineKernel('PlexusUniform', ['key'], (_inputs, attrs) => ({
  outputs: [{ dtype: 'float32', shape: [...(attrs.shape as number[])] }],
  attrs: { shape: [...(attrs.shape as number[])], stream: (attrs.stream as number) >>> 0 },
}));

/** The expert boundary: rows `[n, d]` and counts int32 `[experts]`; attributes `path`, `experts`. */
defineKernel('PlexusExperts', ['rows', 'counts'], (inputs) => ({ outputs: [first(inputs)] }));
/** The boundary in the backward: cotangents of the expert outputs in, cotangents of the expert inputs out. */
defineKernel('PlexusExpertsGrad', ['dy', 'counts'], (inputs) => ({ outputs: [first(inputs)] }));

/** From logits `[n, v]` and int32 labels `[n]`: losses `[n]` and log-probabilities `[n, v]`. */
defineKernel('PlexusSoftmaxCrossEntropy', ['logits', 'labels'], (inputs) => ({
  outputs: [{ dtype: 'float32', shape: first(inputs).shape.slice(0, 1) }, first(inputs)],
  attrs: {},
}));
/** `(exp(logProbs) - onehot(labels)) * dy`: gradient by the logits from dy `[n]`. */
defineKernel('PlexusSoftmaxCrossEntropyGrad', ['dy', 'logProbs', 'labels'], (inputs) => ({
  outputs: [inputs[1] as Signature],
  attrs: {},
}));

/** Over the last axis, attribute `epsilon`: y, and the mean and 1/sqrt(variance + epsilon) of each row (`[..., 1]`). */
defineKernel('PlexusLayerNorm', ['x', 'gain', 'bias'], (inputs, attrs) => ({
  outputs: [first(inputs), lastOne(first(inputs)), lastOne(first(inputs))],
  attrs: { epsilon: attrs.epsilon ?? 1e-5 },
}));
/** Over the last axis, attribute `epsilon`: y, and 1/sqrt(mean square + epsilon) of each row (`[..., 1]`). */
defineKernel('PlexusRmsNorm', ['x', 'gain'], (inputs, attrs) => ({
  outputs: [first(inputs), lastOne(first(inputs))],
  attrs: { epsilon: attrs.epsilon ?? 1e-5 },
}));

/** GELU, attribute `approximate`: `none` (with erf) or `tanh`. */
defineKernel('PlexusGelu', ['x'], (inputs, attrs) => ({
  outputs: [first(inputs)],
  attrs: { approximate: attrs.approximate ?? 'none' },
}));
defineKernel('PlexusGeluGrad', ['dy', 'x'], (inputs, attrs) => ({
  outputs: [first(inputs)],
  attrs: { approximate: attrs.approximate ?? 'none' },
}));
/** `x * sigmoid(x)`. */
defineKernel('PlexusSilu', ['x'], (inputs) => ({ outputs: [first(inputs)], attrs: {} }));
defineKernel('PlexusSiluGrad', ['dy', 'x'], (inputs) => ({ outputs: [first(inputs)], attrs: {} }));

/** Sum of the squares of all elements. */
defineKernel('PlexusSquaredSum', ['x'], () => ({ outputs: [{ dtype: 'float32', shape: [] }], attrs: {} }));

/** Names of the kernels of this file, for registration. */
export const plexusKernels = [
  'PlexusUniform',
  'PlexusExperts',
  'PlexusExpertsGrad',
  'PlexusSoftmaxCrossEntropy',
  'PlexusSoftmaxCrossEntropyGrad',
  'PlexusSquaredSum',
  'PlexusLayerNorm',
  'PlexusRmsNorm',
  'PlexusGelu',
  'PlexusGeluGrad',
  'PlexusSilu',
  'PlexusSiluGrad',
];

/** Rows and width of a tensor seen as a matrix over its last axis. */
export function rowsAndWidth(shape: readonly number[]): [number, number] {
  const width = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  return [width === 0 ? 0 : sizeOf(shape) / width, width];
}
