import type { Tensor } from '@tensorflow/tfjs-core';
import { gelu, silu, tf } from '../../../src/engine/index.ts';
import { anyOf, exactly, type KernelCase, one, two } from './harness.ts';

type Unary = (x: Tensor) => Tensor;
type Binary = (a: Tensor, b: Tensor) => Tensor;

const unary = (fill: Parameters<typeof one>[0], ops: Record<string, Unary>): KernelCase[] =>
  Object.entries(ops).map(([name, fn]) => ({ name, inputs: one(fill), fn: fn as KernelCase['fn'] }));

const binary = (
  a: Parameters<typeof two>[0],
  b: Parameters<typeof two>[1],
  ops: Record<string, Binary>,
): KernelCase[] => Object.entries(ops).map(([name, fn]) => ({ name, inputs: two(a, b), fn: fn as KernelCase['fn'] }));

const without = (cases: KernelCase[], gradient: KernelCase['gradient']): KernelCase[] =>
  cases.map((test) => ({ ...test, gradient }));

export const elementwiseCases: KernelCase[] = [
  ...unary('normal', {
    abs: tf.abs,
    neg: tf.neg,
    square: tf.square,
    cos: tf.cos,
    sin: tf.sin,
    sinh: tf.sinh,
    cosh: tf.cosh,
    tanh: tf.tanh,
    sigmoid: tf.sigmoid,
    softplus: tf.softplus,
    exp: tf.exp,
    expm1: tf.expm1,
    erf: tf.erf,
    atan: tf.atan,
    asinh: tf.asinh,
    relu: tf.relu,
    relu6: (x) => tf.relu6(tf.mul(x, 4)),
    elu: tf.elu,
    selu: tf.selu,
    leakyRelu: (x) => tf.leakyRelu(x, 0.3),
    logSigmoid: tf.logSigmoid,
    gelu: (x) => gelu(x),
    geluTanh: (x) => gelu(x, 'tanh'),
    silu: (x) => silu(x),
    clip: (x) => tf.clipByValue(x, -0.8, 1.1),
    zerosLike: (x) => tf.add(x, tf.onesLike(x)),
    ceil: tf.ceil,
    floor: tf.floor,
    round: tf.round,
    sign: tf.sign,
    step: (x) => tf.step(x, 0.25),
    step0: (x) => tf.step(x),
  }),
  ...unary('positive', { log: tf.log, log1p: tf.log1p, sqrt: tf.sqrt, rsqrt: tf.rsqrt, reciprocal: tf.reciprocal }),
  ...unary('unit', { acos: tf.acos, asin: tf.asin, atanh: tf.atanh, tan: tf.tan }),
  ...unary('above-one', { acosh: tf.acosh }),
  ...without(
    [
      ...unary('small-int', {
        absInt: tf.abs,
        negInt: tf.neg,
        squareInt: tf.square,
        reluInt: tf.relu,
        signInt: tf.sign,
      }),
      ...unary('bool', { not: tf.logicalNot as Unary }),
      {
        name: 'finite',
        inputs: exactly([6]),
        fn: (x) => {
          const odd = tf.concat([x, tf.tensor1d([Number.NaN, Infinity, -Infinity, 3.4028234663852886e38])]);
          return [tf.isNaN(odd), tf.isInf(odd), tf.isFinite(odd)];
        },
      },
    ],
    'none',
  ),
  ...binary('normal', 'normal', {
    add: tf.add,
    sub: tf.sub,
    mul: tf.mul,
    squaredDifference: tf.squaredDifference,
    addN: (a, b) => tf.addN([tf.add(a, b), tf.mul(a, b), tf.sub(b, a)]),
  }).map((test) => (test.name === 'squaredDifference' ? { ...test, gradient: 'numeric' as const } : test)),
  {
    name: 'prelu',
    inputs: anyOf(
      [[2, 3, 4], [4]],
      [
        [3, 2],
        [3, 2],
      ],
      [[0, 4], [4]],
    ),
    fn: (x, alpha) => tf.prelu(x as Tensor, alpha as Tensor),
    gradient: 'numeric',
  },
  ...binary('distinct', 'distinct', { maximum: tf.maximum, minimum: tf.minimum }).map((test) => ({
    ...test,
    gradient: 'none' as const,
  })),
  ...binary('normal', 'positive', { div: tf.div, atan2: tf.atan2, mod: tf.mod }),
  ...binary('positive', 'normal', { pow: tf.pow }),
  ...without(
    [
      ...binary('small-int', 'nonzero-int', { modInt: tf.mod, floorDivInt: tf.floorDiv, divInt: tf.div }),
      ...binary('small-int', 'small-int', {
        addInt: tf.add,
        subInt: tf.sub,
        mulInt: tf.mul,
        maxInt: tf.maximum,
        minInt: tf.minimum,
        equal: tf.equal as Binary,
        notEqual: tf.notEqual,
        less: tf.less,
        lessEqual: tf.lessEqual,
        greater: tf.greater,
        greaterEqual: tf.greaterEqual,
        floorDivByZero: tf.floorDiv,
      }),
      ...binary('small-int', { below: 4 }, { powInt: tf.pow }),
      ...binary('normal', 'normal', { lessFloat: tf.less, greaterEqualFloat: tf.greaterEqual }),
      ...binary('bool', 'bool', {
        and: tf.logicalAnd as Binary,
        or: tf.logicalOr as Binary,
        xor: tf.logicalXor as Binary,
        equalBool: tf.equal,
      }),
      {
        name: 'bitwiseAnd',
        inputs: exactly({ shape: [4, 3], fill: 'small-int' }, { shape: [4, 3], fill: 'small-int' }),
        fn: (a, b) => tf.bitwiseAnd(a as Tensor, b as Tensor),
      },
      { name: 'castInt', inputs: one('normal'), fn: (x) => tf.cast(tf.mul(x, 3), 'int32') },
      { name: 'castBool', inputs: one('small-int'), fn: (x) => [tf.cast(x, 'bool'), tf.cast(x, 'float32')] },
      { name: 'castFromBool', inputs: one('bool'), fn: (x) => [tf.cast(x, 'int32'), tf.cast(x, 'float32')] },
      { name: 'castNaN', inputs: exactly([2]), fn: (x) => tf.cast(tf.concat([x, tf.tensor1d([Number.NaN])]), 'int32') },
    ],
    'none',
  ),
  {
    name: 'where',
    inputs: anyOf(
      [{ shape: [2, 3], fill: 'bool' }, [2, 3], [2, 3]],
      [{ shape: [3], fill: 'bool' }, [2, 3], [2, 3]],
      [{ shape: [0], fill: 'bool' }, [0], [0]],
      [{ shape: [], fill: 'bool' }, [], []],
    ),
    fn: (c, a, b) => tf.where(c as Tensor, a as Tensor, b as Tensor),
  },
  {
    name: 'whereInt',
    inputs: exactly(
      { shape: [2, 3], fill: 'bool' },
      { shape: [2, 3], fill: 'small-int' },
      { shape: [2, 3], fill: 'small-int' },
    ),
    fn: (c, a, b) => tf.where(c as Tensor, a as Tensor, b as Tensor),
  },
];
