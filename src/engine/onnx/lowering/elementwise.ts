import { float, type Ref } from '../model.ts';
import type { Lowering, LoweringContext, LoweringTable } from './context.ts';

/** A kernel that is one ONNX operator on floats. */
function unary(type: string): Lowering {
  return (c) => c.inFloat(c.in(0), (x) => c.map(type, x));
}

/** A kernel that is one ONNX operator on floats and integers. */
function unaryAny(type: string): Lowering {
  return (c) => c.b.cast(c.map(type, notBool(c, c.in(0))), c.out.dtype);
}

/** A composition of float operators. */
function composed(fn: (c: LoweringContext, x: Ref) => Ref): Lowering {
  return (c) => c.inFloat(c.in(0), (x) => fn(c, x));
}

/** ONNX has no arithmetic on bools; tfjs counts them as 0 and 1. */
function notBool(c: LoweringContext, x: Ref): Ref {
  return x.dtype === 'bool' ? c.b.cast(x, 'int32') : x;
}

function binary(type: string): Lowering {
  return (c) => c.b.cast(c.map(type, notBool(c, c.in(0)), notBool(c, c.in(1))), c.out.dtype);
}

function comparison(type: string): Lowering {
  return (c) => {
    const a = type === 'Equal' ? c.in(0) : notBool(c, c.in(0));
    const b = type === 'Equal' ? c.in(1) : notBool(c, c.in(1));
    return c.compare(type, a, b);
  };
}

function logical(type: string): Lowering {
  return (c) => c.compare(type, c.b.cast(c.in(0), 'bool'), c.b.cast(c.in(1), 'bool'));
}

/** A divisor that the integer division of a CPU survives: 1 instead of 0. */
function safeDivisor(c: LoweringContext, b: Ref): Ref {
  return c.where(c.compare('Equal', b, c.k(0, b)), c.k(1, b), b);
}

/** Rounds towards minus infinity, gives 0 for x / 0 on integers, as tfjs does; its result is always int32. */
function floorDiv(c: LoweringContext): Ref {
  const a = c.in(0);
  const b = c.in(1);
  if (a.dtype === 'float32') return c.b.cast(c.map('Floor', c.map('Div', a, b)), c.out.dtype);
  const y = notBool(c, b);
  const quotient = c.map('Div', c.b.cast(notBool(c, a), 'float64'), c.b.cast(safeDivisor(c, y), 'float64'));
  const floored = c.b.cast(c.map('Floor', quotient), 'int32');
  return c.b.cast(c.where(c.compare('Equal', y, c.k(0, y)), c.k(0, y), floored), c.out.dtype);
}

/** The remainder has the divisor's sign. */
function mod(c: LoweringContext): Ref {
  const a = notBool(c, c.in(0));
  const b = notBool(c, c.in(1));
  if (a.dtype === 'int32') {
    const remainder = c.map('Mod', a, safeDivisor(c, b));
    return c.where(c.compare('Equal', b, c.k(0, b)), c.k(0, b), remainder);
  }
  const remainder = c.apply('Mod', [a, b], { fmod: 1 });
  const zero = c.k(0, a);
  const sameSign = c.apply('Not', [c.compare('Xor', c.compare('Less', a, zero), c.compare('Less', b, zero))], {});
  return c.where(sameSign, remainder, c.apply('Mod', [c.map('Add', remainder, b), b], { fmod: 1 }));
}

function pow(c: LoweringContext): Ref {
  const a = c.in(0);
  const b = c.in(1);
  if (c.out.dtype === 'float32') return c.map('Pow', c.b.cast(a, 'float32'), c.b.cast(b, 'float32'));
  return c.b.cast(c.map('Pow', c.b.cast(a, 'float64'), c.b.cast(b, 'float64')), c.out.dtype);
}

function cast(c: LoweringContext): Ref {
  const x = c.in(0);
  // A NaN becomes 0 in tfjs's int32; C++ leaves it open.
  if (x.dtype === 'float32' && c.out.dtype === 'int32')
    return c.b.cast(c.where(c.apply('IsNaN', [x], {}, 'bool'), c.k(0), x), 'int32');
  return c.b.cast(x, c.out.dtype);
}

/** Accurate near 0: exp(x) - 1 = tanh(x / 2) (exp(x) + 1). */
function expm1(c: LoweringContext, x: Ref): Ref {
  return c.map('Mul', c.map('Tanh', c.map('Mul', x, c.k(0.5))), c.map('Add', c.map('Exp', x), c.k(1)));
}

/** Accurate near 0 (Kahan): with u = 1 + x rounded, log(u) x / (u - 1), and x itself where u is 1. */
function log1p(c: LoweringContext, x: Ref): Ref {
  const u = c.map('Add', x, c.k(1));
  const log = c.map('Log', u);
  const corrected = c.map('Div', c.map('Mul', log, x), c.map('Sub', u, c.k(1)));
  const small = c.where(c.compare('Equal', u, c.k(1)), x, corrected);
  return c.where(c.compare('Greater', x, c.k(1)), log, small);
}

function atan2(c: LoweringContext): Ref {
  const y = c.in(0);
  const x = c.in(1);
  const zero = c.k(0);
  const base = c.map('Atan', c.map('Div', y, x));
  const half = c.where(c.compare('Less', y, zero), c.k(-Math.PI), c.k(Math.PI));
  const left = c.where(c.compare('Less', x, zero), c.map('Add', base, half), base);
  const vertical = c.map('Mul', c.map('Sign', y), c.k(Math.PI / 2));
  return c.where(c.compare('Equal', x, zero), vertical, left);
}

/** 1 where x > 0, `alpha` elsewhere; NaN stays NaN. */
function step(c: LoweringContext, x: Ref): Ref {
  const alpha = c.number('alpha', 0);
  const positive = c.compare('Greater', x, c.k(0));
  const stepped = alpha === 0 ? c.b.cast(positive, 'float32') : c.where(positive, c.k(1), c.k(alpha));
  return c.where(c.apply('IsNaN', [x], {}, 'bool'), x, stepped);
}

function clip(c: LoweringContext): Ref {
  const x = notBool(c, c.in(0));
  const low = c.k(c.number('clipValueMin'), x);
  const high = c.k(c.number('clipValueMax'), x);
  return c.b.op('Clip', [x, low, high], {}, x);
}

function prelu(c: LoweringContext): Ref {
  const x = c.in(0);
  return c.where(c.compare('Less', x, c.k(0)), c.map('Mul', c.in(1), x), x);
}

/** tfjs: a condition of rank 1 beside operands of a higher rank selects whole rows. */
function select(c: LoweringContext): Ref {
  const condition = c.b.cast(c.in(0), 'bool');
  const [yes, no] = [c.in(1), c.in(2)];
  const rank = yes.shape.length;
  const rows = condition.shape.length === 1 && rank > 1;
  const shaped = rows
    ? c.b.reshape(condition, [...condition.shape, ...new Array<number>(rank - 1).fill(1)])
    : condition;
  return c.b.cast(c.where(shaped, notBool(c, yes), notBool(c, no)), c.out.dtype);
}

/** Element-wise arithmetic, comparisons, logic, activations. */
export const elementwise: LoweringTable = {
  Abs: unaryAny('Abs'),
  Neg: unaryAny('Neg'),
  Sign: unaryAny('Sign'),
  Square: (c) => {
    const x = notBool(c, c.in(0));
    return c.b.cast(c.map('Mul', x, x), c.out.dtype);
  },
  Acos: unary('Acos'),
  Acosh: unary('Acosh'),
  Asin: unary('Asin'),
  Asinh: unary('Asinh'),
  Atan: unary('Atan'),
  Atanh: unary('Atanh'),
  Ceil: unary('Ceil'),
  Cos: unary('Cos'),
  Cosh: unary('Cosh'),
  Erf: unary('Erf'),
  Exp: unary('Exp'),
  Floor: unary('Floor'),
  Log: unary('Log'),
  Reciprocal: unary('Reciprocal'),
  Relu: unaryAny('Relu'),
  Round: unary('Round'),
  Selu: unary('Selu'),
  Sigmoid: unary('Sigmoid'),
  Sin: unary('Sin'),
  Sinh: unary('Sinh'),
  Softplus: unary('Softplus'),
  Sqrt: unary('Sqrt'),
  Tan: unary('Tan'),
  Tanh: unary('Tanh'),
  Elu: unary('Elu'),
  Expm1: composed(expm1),
  Log1p: composed(log1p),
  Rsqrt: composed((c, x) => c.map('Reciprocal', c.map('Sqrt', x))),
  LeakyRelu: composed((c, x) => c.apply('LeakyRelu', [x], { alpha: float(c.number('alpha', 0.2)) })),
  Step: composed(step),
  Prelu: prelu,
  // y = exp(x) - 1 where x < 0, so its derivative is y + 1 there.
  EluGrad: (c) => c.map('Mul', c.in(0), c.map('Add', c.map('Min', c.in(1), c.k(0)), c.k(1))),
  IsNan: (c) => c.apply('IsNaN', [c.b.cast(c.in(0), 'float32')], {}, 'bool'),
  IsInf: (c) => c.apply('IsInf', [c.b.cast(c.in(0), 'float32')], {}, 'bool'),
  IsFinite: (c) => {
    const x = c.b.cast(c.in(0), 'float32');
    return c.compare('LessOrEqual', c.map('Abs', x), c.k(3.4028234663852886e38));
  },
  LogicalNot: (c) => c.apply('Not', [c.b.cast(c.in(0), 'bool')], {}, 'bool'),
  Add: binary('Add'),
  Sub: binary('Sub'),
  Multiply: binary('Mul'),
  RealDiv: (c) => c.b.cast(c.map('Div', c.b.cast(c.in(0), 'float32'), c.b.cast(c.in(1), 'float32')), c.out.dtype),
  Maximum: binary('Max'),
  Minimum: binary('Min'),
  FloorDiv: floorDiv,
  Mod: mod,
  Pow: pow,
  Atan2: atan2,
  Equal: comparison('Equal'),
  NotEqual: (c) => c.apply('Not', [c.compare('Equal', c.in(0), c.in(1))], {}),
  Greater: comparison('Greater'),
  GreaterEqual: comparison('GreaterOrEqual'),
  Less: comparison('Less'),
  LessEqual: comparison('LessOrEqual'),
  LogicalAnd: logical('And'),
  LogicalOr: logical('Or'),
  BitwiseAnd: (c) => c.map('BitwiseAnd', c.in(0), c.in(1)),
  Cast: cast,
  ClipByValue: clip,
  Select: select,
};
