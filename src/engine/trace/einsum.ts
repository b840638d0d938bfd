import type { Tensor } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../tensor/index.ts';
import { EngineError } from '../errors.ts';
import { tf } from './tf.ts';

/** Splits `ij,jk->ik` into terms. @throws EngineError for what is not supported (ellipsis, a label twice in one term). */
export function parseEinsum(equation: string, operands: number): { readonly terms: string[]; readonly output: string } {
  const [left, right] = equation.replaceAll(' ', '').split('->') as [string, string | undefined];
  const terms = left.split(',');
  if (right === undefined || terms.length !== operands || /[^A-Za-z,>-]/.test(equation.replaceAll(' ', '')))
    throw new EngineError(
      `einsum "${equation}" with ${operands} operands: expected one term of letters for each operand and an output, like "bij,bjk->bik"`,
    );
  for (const term of [...terms, right])
    if (new Set(term).size !== term.length)
      throw new EngineError(`einsum "${equation}": a label occurs twice in "${term}", diagonals are not supported`);
  return { terms, output: right };
}

interface Term {
  readonly labels: string;
  readonly tensor: Tensor;
}

/** Evaluates an einsum as transpositions, reshapes, sums and batched matrix products, operands folded from the left. */
export function einsum(equation: string, tensors: readonly Tensor[]): Tensor {
  const { terms, output } = parseEinsum(equation, tensors.length);
  const rest = terms.map((labels, i): Term => ({ labels, tensor: tensors[i] as Tensor }));
  let acc = rest.shift() as Term;
  while (rest.length > 0) {
    const next = rest.shift() as Term;
    acc = contract(acc, next, new Set([...output, ...rest.flatMap((term) => [...term.labels])]));
  }
  return arrange(sumAway(acc, new Set(output)), output).tensor;
}

/** The gradient of `einsum` by operand `index`. */
export function einsumGradient(equation: string, tensors: readonly Tensor[], dy: Tensor, index: number): Tensor {
  const { terms, output } = parseEinsum(equation, tensors.length);
  const others = terms.filter((_, i) => i !== index);
  const own = terms[index] as string;
  const known = new Set([...output, ...others.join('')]);
  const kept = [...own].filter((label) => known.has(label)).join('');
  const x = tensors[index] as Tensor;
  const part = einsum(`${[output, ...others].join(',')}->${kept}`, [dy, ...tensors.filter((_, i) => i !== index)]);
  // A label that only this operand has was summed over: its gradient is the same along it.
  const sizes = x.shape.map((dim, i) => (known.has(own[i] as string) ? dim : 1));
  return x.size === 0 ? tf.zerosLike(x) : tf.broadcastTo(tf.reshape(part, sizes), x.shape);
}

function contract(a: Term, b: Term, needed: ReadonlySet<string>): Term {
  const left = sumAway(a, new Set([...needed, ...b.labels]));
  const right = sumAway(b, new Set([...needed, ...left.labels]));
  const shared = [...left.labels].filter((label) => right.labels.includes(label));
  const batch = shared.filter((label) => needed.has(label)).join('');
  const inner = shared.filter((label) => !needed.has(label)).join('');
  const freeA = [...left.labels].filter((label) => !shared.includes(label)).join('');
  const freeB = [...right.labels].filter((label) => !shared.includes(label)).join('');
  const sizes = new Map<string, number>();
  for (const { labels, tensor } of [left, right])
    for (const [i, label] of [...labels].entries()) sizes.set(label, tensor.shape[i] as number);
  const size = (labels: string) => sizeOf([...labels].map((label) => sizes.get(label) as number));
  const labels = batch + freeA + freeB;
  const shape = [...labels].map((label) => sizes.get(label) as number);
  const matrixA = tf.reshape(arrange(left, batch + freeA + inner).tensor, [size(batch), size(freeA), size(inner)]);
  const matrixB = tf.reshape(arrange(right, batch + inner + freeB).tensor, [size(batch), size(inner), size(freeB)]);
  if (inner === '') return { labels, tensor: tf.reshape(tf.mul(matrixA, matrixB), shape) };
  const product =
    batch === ''
      ? tf.matMul(tf.reshape(matrixA, [size(freeA), size(inner)]), tf.reshape(matrixB, [size(inner), size(freeB)]))
      : tf.matMul(matrixA, matrixB);
  return { labels, tensor: tf.reshape(product, shape) };
}

function sumAway(term: Term, needed: ReadonlySet<string>): Term {
  const axes = [...term.labels].flatMap((label, i) => (needed.has(label) ? [] : [i]));
  if (axes.length === 0) return term;
  return { labels: [...term.labels].filter((label) => needed.has(label)).join(''), tensor: tf.sum(term.tensor, axes) };
}

function arrange(term: Term, labels: string): Term {
  const perm = [...labels].map((label) => term.labels.indexOf(label));
  if (perm.includes(-1)) throw new EngineError(`einsum: the output label in "${labels}" is in no operand`);
  if (perm.every((axis, i) => axis === i)) return term;
  return { labels, tensor: tf.transpose(term.tensor, perm) };
}
