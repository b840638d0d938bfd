import { sizeOf } from '../../tensor/index.ts';
import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, inputsOf, reducesLast, through, unreshaped } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/**
 * What tf.logSoftmax and tf's logSumExp record: `(x - max) - log(sum(exp(x - max)))`, or
 * `x - (max + log(sum(exp(x - max))))`, over the last axis.
 */
export function fuseLogSoftmax(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Sub') return;
  const [left, right] = inputsOf(rewrite, node) as [ValueId, ValueId];
  const x = fromShifted(rewrite, left, right) ?? fromLogSumExp(rewrite, left, right);
  if (x === null) return;
  rewrite.replaceValue(node.outputs[0] as ValueId, rewrite.insert(node, 'LogSoftmax', [x])[0] as ValueId);
}

function fromShifted(rewrite: Rewrite, left: ValueId, right: ValueId): ValueId | null {
  const x = shiftedByMax(rewrite, left);
  return x !== null && logSumExpOf(rewrite, right) === left ? x : null;
}

function fromLogSumExp(rewrite: Rewrite, x: ValueId, right: ValueId): ValueId | null {
  const sum = rewrite.producedBy(unreshaped(rewrite, right), 'Add');
  if (sum === undefined) return null;
  for (const [max, log] of eitherOrder(rewrite, sum)) {
    const shifted = logSumExpOf(rewrite, log);
    if (shifted === null || shiftedByMax(rewrite, shifted) !== x) continue;
    if (maxOf(rewrite, unreshaped(rewrite, max)) === x || maxOf(rewrite, max) === x) return x;
  }
  return null;
}

/** For `x - max(x)`: x. */
function shiftedByMax(rewrite: Rewrite, id: ValueId): ValueId | null {
  const sub = rewrite.producedBy(id, 'Sub');
  if (sub === undefined) return null;
  const [x, max] = inputsOf(rewrite, sub) as [ValueId, ValueId];
  return maxOf(rewrite, max) === x || maxOf(rewrite, unreshaped(rewrite, max)) === x ? x : null;
}

function maxOf(rewrite: Rewrite, id: ValueId): ValueId | null {
  const max = rewrite.producedBy(id, 'Max');
  if (max === undefined || !reducesLast(rewrite, max, 'reductionIndices')) return null;
  return rewrite.resolve(max.inputs[0] as ValueId);
}

/** For `log(sum(exp(s)))`: s. */
function logSumExpOf(rewrite: Rewrite, id: ValueId): ValueId | null {
  const sum = through(rewrite, unreshaped(rewrite, id), 'Log');
  const node = sum === null ? undefined : rewrite.producedBy(unreshaped(rewrite, sum), 'Sum');
  if (node === undefined || !reducesLast(rewrite, node)) return null;
  return through(rewrite, node.inputs[0] as ValueId, 'Exp');
}

/**
 * Cross-entropy through a one-hot tensor of labels: the loss `-sum(logSoftmax(x) * oneHot(l))`, and its gradient
 * `(exp(logSoftmax(x)) - oneHot(l)) * dy`, for logits of rank 2.
 */
export function fuseCrossEntropy(rewrite: Rewrite, node: GraphNode): void {
  const fused = node.kernel === 'Sum' ? fromLoss(rewrite, node) : null;
  if (fused !== null) {
    rewrite.replaceValue(node.outputs[0] as ValueId, fused);
    return;
  }
  if (node.kernel === 'Neg') {
    const sum = rewrite.producedBy(node.inputs[0] as ValueId, 'Sum');
    const loss = sum === undefined ? null : fromPositive(rewrite, sum, sum.inputs[0] as ValueId);
    if (loss !== null) rewrite.replaceValue(node.outputs[0] as ValueId, loss);
    return;
  }
  if (node.kernel === 'Multiply') fuseCrossEntropyGradient(rewrite, node);
}

function fromLoss(rewrite: Rewrite, sum: GraphNode): ValueId | null {
  const negated = through(rewrite, sum.inputs[0] as ValueId, 'Neg');
  return negated === null ? null : fromPositive(rewrite, sum, negated);
}

/** For a sum over `logProbs * oneHot`: the losses. */
function fromPositive(rewrite: Rewrite, sum: GraphNode, product: ValueId): ValueId | null {
  const multiply = rewrite.producedBy(product, 'Multiply');
  if (multiply === undefined || sum.attrs.keepDims === true || !reducesLast(rewrite, sum)) return null;
  for (const [logProbs, hot] of eitherOrder(rewrite, multiply)) {
    const softmax = rewrite.producedBy(logProbs, 'LogSoftmax');
    const labels = labelsOf(rewrite, hot);
    if (softmax === undefined || labels === null || rewrite.shape(logProbs).length !== 2) continue;
    const inputs = [rewrite.resolve(softmax.inputs[0] as ValueId), labels];
    const [losses, outLogProbs] = rewrite.insert(sum, 'PlexusSoftmaxCrossEntropy', inputs) as [ValueId, ValueId];
    rewrite.replaceValue(logProbs, outLogProbs);
    return losses;
  }
  return null;
}

function fuseCrossEntropyGradient(rewrite: Rewrite, node: GraphNode): void {
  for (const [column, difference] of eitherOrder(rewrite, node)) {
    const sub = rewrite.producedBy(difference, 'Sub');
    const shape = rewrite.shape(difference);
    if (sub === undefined || shape.length !== 2 || sizeOf(rewrite.shape(column)) !== shape[0]) continue;
    if (rewrite.shape(column).at(-1) !== 1) continue;
    const [probs, hot] = inputsOf(rewrite, sub) as [ValueId, ValueId];
    const logProbs = through(rewrite, probs, 'Exp');
    const labels = labelsOf(rewrite, hot);
    if (logProbs === null || labels === null || rewrite.shape(labels)[0] !== shape[0]) continue;
    const dy = rewrite.insert(node, 'Reshape', [column], { shape: [shape[0] as number] })[0] as ValueId;
    const grad = rewrite.insert(node, 'PlexusSoftmaxCrossEntropyGrad', [dy, logProbs, labels])[0] as ValueId;
    rewrite.replaceValue(node.outputs[0] as ValueId, grad);
    return;
  }
}

/** For a one-hot tensor of int32 labels of rank 1 (cast or not): the labels. */
function labelsOf(rewrite: Rewrite, id: ValueId): ValueId | null {
  const hot = rewrite.producedBy(through(rewrite, id, 'Cast') ?? id, 'OneHot');
  if (hot === undefined || hot.attrs.onValue !== 1 || hot.attrs.offValue !== 0) return null;
  const labels = rewrite.resolve(hot.inputs[0] as ValueId);
  const { dtype, shape } = rewrite.signature(labels);
  return dtype === 'int32' && shape.length === 1 ? labels : null;
}
