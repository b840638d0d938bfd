import { type Graph, graphFlops, trace, type ValueId } from '../../../engine/index.ts';
import { type Model, modelFunctions, type TaskInfo } from '../../../modules/index.ts';

/** Where the arithmetic of one example's forward goes. */
export interface WeightFlops {
  /** FLOPs of the whole forward. */
  readonly total: number;
  /** FLOPs of the products with each weight, by its path: those that a weight's zeros save. */
  readonly byWeight: ReadonlyMap<string, number>;
}

const PRODUCTS = new Set(['BatchMatMul', 'PlexusMatMul', 'Conv2D', 'DepthwiseConv2dNative']);
/** Kernels whose result is still the weight. */
const VIEWS = new Set(['Identity', 'Reshape', 'Transpose', 'Cast']);

/** Measures a model's forward from its trace, for a batch of one; nothing is computed. */
export function weightFlops(model: Model, info: TaskInfo): WeightFlops {
  const byWeight = new Map<string, number>();
  let total = 0;
  for (const layer of modelFunctions(model, info, 1, 'predict')) {
    const graph = trace(layer.fn, layer.inputs, { name: layer.name });
    total += graphFlops(graph);
    const weights = new Map<ValueId, string>(layer.params.map(({ path }, i) => [graph.inputs[i] as ValueId, path]));
    for (const node of graph.nodes) {
      const of = node.inputs.flatMap((id) => weights.get(id) ?? []);
      const [path] = of;
      if (path === undefined) continue;
      if (VIEWS.has(node.kernel)) weights.set(node.outputs[0] as ValueId, path);
      if (PRODUCTS.has(node.kernel)) byWeight.set(path, (byWeight.get(path) ?? 0) + flopsOf(graph, node));
    }
  }
  return { total, byWeight };
}

function flopsOf(graph: Graph, node: Graph['nodes'][number]): number {
  return graphFlops({ ...graph, nodes: [node] });
}
