import { float, type Ref } from '../model.ts';
import type { LoweringContext, LoweringTable } from './context.ts';
import { uniform } from './uniform.ts';

const lastAxis = (x: Ref): number => x.shape.length - 1;
const perRow = (x: Ref): number[] => [...x.shape.slice(0, -1), 1];

/** Losses `[n]` and log-probabilities `[n, v]`. */
function softmaxCrossEntropy(c: LoweringContext): readonly Ref[] {
  const [logits, labels] = [c.in(0), c.in(1)];
  const logProbs = c.b.op('LogSoftmax', [logits], { axis: 1 }, logits);
  const column = c.b.reshape(labels, [labels.shape[0] as number, 1]);
  const picked = c.b.op('GatherElements', [logProbs, column], { axis: 1 }, { dtype: 'float32', shape: column.shape });
  return [c.b.reshape(c.map('Neg', picked), labels.shape), logProbs];
}

/** `(exp(logProbs) - onehot(labels)) dy` without the one-hot matrix: dy is taken off at the label. */
function softmaxCrossEntropyGrad(c: LoweringContext): Ref {
  const [dy, logProbs, labels] = [c.in(0), c.in(1), c.in(2)];
  const n = labels.shape[0] as number;
  const seed = c.b.reshape(dy, [n, 1]);
  const scaled = c.map('Mul', c.map('Exp', logProbs), seed);
  const operands = [scaled, c.b.reshape(labels, [n, 1]), c.map('Neg', seed)];
  return c.b.op('ScatterElements', operands, { axis: 1, reduction: 'add' }, logProbs);
}

function layerNorm(c: LoweringContext): readonly Ref[] {
  const [x, gain, bias] = [c.in(0), c.in(1), c.in(2)];
  const attrs = { axis: lastAxis(x), epsilon: float(c.number('epsilon', 1e-5)) };
  const row = { dtype: 'float32' as const, shape: perRow(x) };
  return c.b.ops('LayerNormalization', [x, gain, bias], attrs, [x, row, row]);
}

function rmsNorm(c: LoweringContext): readonly Ref[] {
  const [x, gain] = [c.in(0), c.in(1)];
  const meanSquare = c.reduce('ReduceMean', c.map('Mul', x, x), [lastAxis(x)], true);
  const scale = c.map('Reciprocal', c.map('Sqrt', c.map('Add', meanSquare, c.k(c.number('epsilon', 1e-5)))));
  return [c.map('Mul', c.map('Mul', x, scale), gain), scale];
}

function gelu(c: LoweringContext): Ref {
  return c.apply('Gelu', [c.in(0)], { approximate: c.text('approximate', 'none') });
}

/**
 * The derivative of x Phi(x) is Phi(x) + x phi(x). With t = x / sqrt 2 that is half of
 * `1 + erf(t) + (2 / sqrt pi) t exp(-t^2)`; the constant moves into the exponent, since every pass over memory counts.
 */
function geluGradErf(c: LoweringContext, dy: Ref, x: Ref): Ref {
  const t = c.map('Mul', x, c.k(Math.SQRT1_2));
  const bell = c.map('Exp', c.map('Sub', c.k(Math.log(2 / Math.sqrt(Math.PI))), c.map('Mul', t, t)));
  const slope = c.map('Add', c.map('Erf', t), c.map('Mul', t, bell));
  const half = c.map('Mul', dy, c.k(0.5));
  return c.map('Mul', half, c.map('Add', slope, c.k(1)));
}

/** y = x (1 + tanh u) / 2 with u = k (x + 0.044715 x^3); 1 - tanh^2 = (1 - tanh)(1 + tanh). */
function geluGradTanh(c: LoweringContext, dy: Ref, x: Ref): Ref {
  const k = Math.sqrt(2 / Math.PI);
  const square = c.map('Mul', x, x);
  const u = c.map('Mul', x, c.map('Add', c.map('Mul', square, c.k(0.044715 * k)), c.k(k)));
  const tanh = c.map('Tanh', u);
  const rise = c.map('Mul', x, c.map('Add', c.map('Mul', square, c.k(3 * 0.044715 * k)), c.k(k)));
  const inner = c.map('Add', c.map('Mul', rise, c.map('Sub', c.k(1), tanh)), c.k(1));
  const half = c.map('Mul', dy, c.k(0.5));
  return c.map('Mul', half, c.map('Mul', c.map('Add', tanh, c.k(1)), inner));
}

function silu(c: LoweringContext): Ref {
  const x = c.in(0);
  return c.onCpu ? c.apply('QuickGelu', [x], { alpha: float(1) }) : c.map('Mul', x, c.map('Sigmoid', x));
}

/** s + x s (1 - s) with s = sigmoid(x). */
function siluGrad(c: LoweringContext): Ref {
  const [dy, x] = [c.in(0), c.in(1)];
  const s = c.map('Sigmoid', x);
  const y = c.map('Mul', x, s);
  return c.map('Mul', dy, c.map('Add', y, c.map('Mul', s, c.map('Sub', c.k(1), y))));
}

/** Plexus' own kernels: what passes make of patterns of tfjs kernels. */
export const plexus: LoweringTable = {
  PlexusUniform: uniform,
  PlexusSoftmaxCrossEntropy: softmaxCrossEntropy,
  PlexusSoftmaxCrossEntropyGrad: softmaxCrossEntropyGrad,
  PlexusLayerNorm: layerNorm,
  PlexusRmsNorm: rmsNorm,
  PlexusGelu: gelu,
  PlexusGeluGrad: (c) =>
    c.text('approximate', 'none') === 'tanh' ? geluGradTanh(c, c.in(0), c.in(1)) : geluGradErf(c, c.in(0), c.in(1)),
  PlexusSilu: silu,
  PlexusSiluGrad: siluGrad,
};
