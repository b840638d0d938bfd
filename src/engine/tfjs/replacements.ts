import type { Tensor, Tensor4D } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../tensor/index.ts';
import type { GraphNode } from '../graph.ts';
import { kernelDefinition, tf, withBackend } from '../trace/index.ts';

/**
 * Nodes that a tfjs kernel of the same name does not run as graphs mean them, because the kernel is missing on the
 * current backend or ignores an attribute. Null for all others.
 */
export function replacement(node: GraphNode, inputs: readonly Tensor[]): Tensor | Tensor[] | null {
  const [a, b, c] = inputs as [Tensor, Tensor, Tensor];
  switch (node.kernel) {
    case 'Identity':
      return tf.clone(a);
    case 'Select':
      // Passes leave operands unbroadcast; the kernel wants equal shapes.
      return tf.where(a, b, c);
    case 'LogSoftmax':
      return tf.logSoftmax(a, node.attrs.axis as number);
    case 'Softmax':
      return a.size === 0 ? tf.clone(a) : null;
    case 'UnsortedSegmentSum':
      // tfjs's own loops over all rows once a segment.
      return ['cpu', 'wasm', 'tensorflow'].includes(tf.getBackend())
        ? segmentSum(a, b, node.attrs.numSegments as number)
        : null;
    case 'OneHot':
      return tf.getBackend() === 'wasm' && node.attrs.dtype !== 'int32' ? oneHot(node, a) : null;
    case 'Cast':
      // tfjs has no cast to bool that counts NaN as true on all backends; "not zero" is the definition.
      return node.attrs.dtype === 'bool' && a.dtype !== 'bool' ? tf.notEqual(a, tf.zerosLike(a)) : null;
    case 'Conv2DBackpropInput':
    case 'DepthwiseConv2dNativeBackpropInput':
      return isDilated(node) ? run(node, undilated(node), [a, dilate(b, node)]) : onCpuIfMissing(node, inputs);
    case 'Conv2DBackpropFilter':
    case 'DepthwiseConv2dNativeBackpropFilter':
      return isDilated(node) ? undilate(run(node, undilated(node), [a, b]), node) : onCpuIfMissing(node, inputs);
    case 'TensorScatterUpdate':
      // tfjs's own writes into its input.
      return tf.getBackend() === 'cpu' ? direct(node, [copied(a), b, c]) : onCpuIfMissing(node, inputs);
    case 'MaxPoolGrad':
      // The WASM backend's own is wrong for windows that overlap padding, with several channels.
      return tf.getBackend() === 'wasm' ? onCpu(node, inputs) : onCpuIfMissing(node, inputs);
    case 'BatchMatMul':
      return withEqualBatches(node, a, b);
    default:
      return onCpuIfMissing(node, inputs);
  }
}

function hasKernel(kernel: string): boolean {
  return tf.getKernel(kernel, tf.getBackend()) != null;
}

function onCpuIfMissing(node: GraphNode, inputs: readonly Tensor[]): Tensor | Tensor[] | null {
  return hasKernel(node.kernel) ? null : onCpu(node, inputs);
}

function copied(x: Tensor): Tensor {
  return tf.tensor(x.dataSync().slice(), x.shape, x.dtype);
}

/** tfjs broadcasts the batches of one operand at a time, and as if they had one axis. */
function withEqualBatches(node: GraphNode, a: Tensor, b: Tensor): Tensor | null {
  const [left, right] = [a.shape.slice(0, -2), b.shape.slice(0, -2)];
  const batches = tf.broadcast_util.assertAndGetBroadcastShape(left, right);
  const simple = (own: readonly number[]): boolean => sizeOf(own) === 1 || own.join() === batches.join();
  if (simple(left) && simple(right)) return null;
  const spread = (x: Tensor): Tensor => tf.broadcastTo(x, [...batches, ...x.shape.slice(-2)]);
  return direct(node, [spread(a), spread(b)]) as Tensor;
}

function run(node: GraphNode, attrs: GraphNode['attrs'], inputs: readonly Tensor[]): Tensor {
  const moved: GraphNode = { ...node, attrs };
  return hasKernel(node.kernel) ? (direct(moved, inputs) as Tensor) : (onCpu(moved, inputs) as Tensor);
}

function direct(node: GraphNode, inputs: readonly Tensor[]): Tensor | Tensor[] {
  const names = kernelDefinition(node.kernel)?.inputs as readonly string[];
  const given = Object.fromEntries(names.map((key, i) => [key, inputs[i] as Tensor]));
  return tf.engine().runKernel(node.kernel, given, node.attrs as never) as Tensor | Tensor[];
}

/** Runs a kernel that the current backend lacks on the JavaScript backend, if that is there: on copies. */
function onCpu(node: GraphNode, inputs: readonly Tensor[]): Tensor | Tensor[] | null {
  if (tf.getBackend() === 'cpu' || tf.getKernel(node.kernel, 'cpu') == null || tf.findBackend('cpu') == null)
    return null;
  const values = inputs.map((input) => input.dataSync());
  return withBackend('cpu', () => {
    const copies = inputs.map(({ shape, dtype }, i) => tf.tensor(values[i] as Float32Array, shape, dtype));
    return direct(node, copies);
  });
}

/** The WASM backend writes the bits of integers, whatever the dtype. */
function oneHot({ attrs }: GraphNode, indices: Tensor): Tensor {
  const { depth, onValue, offValue, dtype } = attrs as Record<'depth' | 'onValue' | 'offValue', number> & {
    dtype: 'float32' | 'bool';
  };
  const hot = tf.cast(tf.oneHot(indices, depth, 1, 0, 'int32'), 'bool');
  return dtype === 'bool' && onValue !== 0 && offValue === 0
    ? hot
    : tf.cast(tf.where(hot, tf.scalar(onValue), tf.scalar(offValue)), dtype);
}

/** Adds each row to its segment, in order. */
function segmentSum(x: Tensor, ids: Tensor, numSegments: number): Tensor {
  const rows = ids.size;
  const width = rows === 0 ? 0 : x.size / rows;
  if (rows === 0 || width === 0) return tf.zeros([numSegments, ...x.shape.slice(1)], x.dtype);
  const values = x.dataSync();
  const targets = ids.dataSync();
  const sums = x.dtype === 'float32' ? new Float32Array(numSegments * width) : new Int32Array(numSegments * width);
  for (let row = 0; row < rows; row++) {
    const target = targets[row] as number;
    if (target < 0 || target >= numSegments) continue;
    for (let i = 0; i < width; i++)
      sums[target * width + i] = (sums[target * width + i] as number) + (values[row * width + i] as number);
  }
  return tf.tensor(sums, [numSegments, ...x.shape.slice(1)], x.dtype);
}

function dilations(node: GraphNode): readonly [number, number] {
  return (node.attrs.dilations ?? [1, 1]) as readonly [number, number];
}

function isDilated(node: GraphNode): boolean {
  return dilations(node).some((dilation) => dilation > 1);
}

/** The same convolution with a filter that has zeros between its taps. */
function undilated(node: GraphNode): GraphNode['attrs'] {
  const { filterShape } = node.attrs as { filterShape?: number[] };
  const plain = { ...node.attrs, dilations: [1, 1] };
  if (!filterShape) return plain;
  const sizes = dilations(node).map((dilation, i) => ((filterShape[i] as number) - 1) * dilation + 1);
  return { ...plain, filterShape: [...sizes, ...filterShape.slice(2)] };
}

function dilate(filter: Tensor, node: GraphNode): Tensor {
  let result = filter;
  dilations(node).forEach((dilation, axis) => {
    if (dilation === 1) return;
    const [h, w, i, o] = result.shape as [number, number, number, number];
    const size = axis === 0 ? h : w;
    const apart = axis === 0 ? tf.reshape(result, [h, 1, w * i * o]) : tf.reshape(result, [h * w, 1, i * o]);
    const padded = tf.pad(apart, [
      [0, 0],
      [0, dilation - 1],
      [0, 0],
    ]);
    const joined = tf.reshape(padded, axis === 0 ? [h * dilation, w, i, o] : [h, w * dilation, i, o]);
    const reach = (size - 1) * dilation + 1;
    result = tf.slice(joined, [0, 0, 0, 0], axis === 0 ? [reach, w, i, o] : [h, reach, i, o]);
  });
  return result;
}

function undilate(filter: Tensor, node: GraphNode): Tensor {
  const [height, width] = dilations(node);
  return tf.stridedSlice(filter as Tensor4D, [0, 0, 0, 0], filter.shape, [height, width, 1, 1]);
}
