import type { Signature } from '../../engine.ts';
import type { GraphDType } from '../../graph.ts';
import { type Attrs, defineKernel, type Inferred } from '../definition.ts';
import { tf } from '../tf.ts';

/** Element-wise kernels of one input whose output has the input's dtype, without attributes. */
const unary = [
  'Abs',
  'Acos',
  'Acosh',
  'Asin',
  'Asinh',
  'Atan',
  'Atanh',
  'Ceil',
  'Cos',
  'Cosh',
  'Elu',
  'Erf',
  'Exp',
  'Expm1',
  'Floor',
  'Log',
  'Log1p',
  'Neg',
  'Reciprocal',
  'Relu',
  'Round',
  'Rsqrt',
  'Selu',
  'Sigmoid',
  'Sign',
  'Sin',
  'Sinh',
  'Softplus',
  'Sqrt',
  'Square',
  'Tan',
  'Tanh',
];
/** Element-wise kernels of one input with bool output. */
const tests = ['IsFinite', 'IsInf', 'IsNan', 'LogicalNot'];
/** Element-wise kernels of two inputs that broadcast, whose output has the first input's dtype. */
const binary = [
  'Add',
  'Atan2',
  'BitwiseAnd',
  'FloorDiv',
  'Maximum',
  'Minimum',
  'Mod',
  'Multiply',
  'Pow',
  'RealDiv',
  'Sub',
];
/** The same with bool output. */
const comparisons = ['Equal', 'Greater', 'GreaterEqual', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr', 'NotEqual'];

const first = (inputs: readonly Signature[]): Signature => inputs[0] as Signature;

function broadcast(inputs: readonly Signature[], dtype: GraphDType): Inferred {
  const [a, b] = inputs as [Signature, Signature];
  return { outputs: [{ dtype, shape: tf.backend_util.assertAndGetBroadcastShape([...a.shape], [...b.shape]) }] };
}

for (const kernel of unary) defineKernel(kernel, ['x'], (inputs) => ({ outputs: [first(inputs)], attrs: {} }));
for (const kernel of tests)
  defineKernel(kernel, ['x'], (inputs) => ({ outputs: [{ dtype: 'bool', shape: first(inputs).shape }], attrs: {} }));
for (const kernel of binary)
  defineKernel(kernel, ['a', 'b'], (inputs) => ({ ...broadcast(inputs, first(inputs).dtype), attrs: {} }));
for (const kernel of comparisons)
  defineKernel(kernel, ['a', 'b'], (inputs) => ({ ...broadcast(inputs, 'bool'), attrs: {} }));

const withAttrs =
  (defaults: Attrs) =>
  (inputs: readonly Signature[], attrs: Attrs): Inferred => ({
    outputs: [first(inputs)],
    attrs: { ...defaults, ...attrs },
  });
defineKernel('LeakyRelu', ['x'], withAttrs({ alpha: 0.2 }));
defineKernel('Step', ['x'], withAttrs({ alpha: 0 }));
defineKernel('ClipByValue', ['x'], withAttrs({}));
defineKernel('EluGrad', ['dy', 'y'], (inputs) => ({ outputs: [first(inputs)], attrs: {} }));
defineKernel('Prelu', ['x', 'alpha'], (inputs) => ({ ...broadcast(inputs, 'float32'), attrs: {} }));

/** `dtype`: int32 truncates towards zero, bool is "not zero". */
defineKernel('Cast', ['x'], (inputs, attrs) => ({
  outputs: [{ dtype: attrs.dtype as GraphDType, shape: first(inputs).shape }],
}));

/** All three inputs have the output's shape (tfjs broadcasts before), or the condition is of rank 1 and selects rows. */
defineKernel('Select', ['condition', 't', 'e'], (inputs) => ({ outputs: [inputs[1] as Signature], attrs: {} }));

/** Names of the kernels of this file, for registration. */
export const elementwiseKernels = [
  ...unary,
  ...tests,
  ...binary,
  ...comparisons,
  'LeakyRelu',
  'Step',
  'ClipByValue',
  'EluGrad',
  'Prelu',
];
