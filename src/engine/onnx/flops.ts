import { type Shape, sizeOf } from '../../tensor/index.ts';
import type { Graph, GraphNode } from '../graph.ts';

/** Kernels that only move data or make constants. */
const FREE = new Set([
  'Reshape',
  'Transpose',
  'Slice',
  'StridedSlice',
  'Concat',
  'PadV2',
  'Tile',
  'Reverse',
  'Fill',
  'Range',
  'GatherV2',
  'GatherNd',
  'OneHot',
  'Cast',
  'TensorScatterUpdate',
  'TopK',
  'PlexusExperts',
  'PlexusExpertsGrad',
]);

/** Operations per element of kernels that stand for several. */
const PER_ELEMENT: Readonly<Record<string, number>> = {
  PlexusLayerNorm: 8,
  PlexusRmsNorm: 5,
  PlexusGelu: 8,
  PlexusGeluGrad: 12,
  PlexusSilu: 4,
  PlexusSiluGrad: 6,
  Softmax: 5,
  LogSoftmax: 5,
  PlexusSoftmaxCrossEntropy: 5,
  PlexusSoftmaxCrossEntropyGrad: 3,
  PlexusSquaredSum: 2,
};

/** Floating-point operations of one run of a graph: a multiply-add is two, any other element-wise operation one. */
export function graphFlops(graph: Graph): number {
  let total = 0;
  for (const node of graph.nodes) total += nodeFlops(graph, node);
  return total;
}

function nodeFlops(graph: Graph, node: GraphNode): number {
  if (FREE.has(node.kernel)) return 0;
  const shape = (id: number | undefined): Shape => (id === undefined ? [] : (graph.values.get(id)?.shape ?? []));
  const first = shape(node.inputs[0]);
  const second = shape(node.inputs[1]);
  const out = shape(node.outputs[0]);
  const dim = (of: Shape, i: number): number => of[i] ?? 1;
  switch (node.kernel) {
    case 'BatchMatMul':
    case 'PlexusMatMul':
      return 2 * sizeOf(out) * dim(first, first.length - (node.attrs.transposeA ? 2 : 1));
    case 'PlexusAddProduct':
      return 2 * sizeOf(out) * dim(second, node.attrs.transposeA ? 0 : 1);
    case 'Conv2D':
      return 2 * sizeOf(out) * sizeOf(second.slice(0, 3));
    case 'PlexusConv2D':
      return 2 * sizeOf(out) * sizeOf(second.slice(0, 3)) + sizeOf(out);
    case 'Conv2DBackpropInput':
      return 2 * sizeOf(first) * sizeOf(second.slice(0, 3));
    case 'Conv2DBackpropFilter':
      return 2 * sizeOf(second) * sizeOf(out.slice(0, 3));
    case 'DepthwiseConv2dNative':
      return 2 * sizeOf(out) * sizeOf(second.slice(0, 2));
    case 'PlexusDepthwiseConv2D':
      return 2 * sizeOf(out) * sizeOf(second.slice(0, 2)) + sizeOf(out);
    case 'DepthwiseConv2dNativeBackpropInput':
      return 2 * sizeOf(first) * sizeOf(second.slice(0, 2));
    case 'DepthwiseConv2dNativeBackpropFilter':
      return 2 * sizeOf(second) * sizeOf(out.slice(0, 2));
    default:
      return Math.max(sizeOf(first), sizeOf(out)) * (PER_ELEMENT[node.kernel] ?? 1);
  }
}
