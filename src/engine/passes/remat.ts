import { byteLengthOf } from '../../tensor/index.ts';
import type { VjpOptions } from '../engine.ts';
import type { Graph, GraphNode, GraphValue, ValueId } from '../graph.ts';
import { isBoundary } from '../trace/index.ts';
import { FlowNetwork, UNCUTTABLE } from './min-cut.ts';

/** Kernels that cost about as much as writing their result to memory: recomputing them is cheaper than keeping it. */
const CHEAP: ReadonlySet<string> = new Set([
  ...['Abs', 'Acos', 'Acosh', 'Asin', 'Asinh', 'Atan', 'Atanh', 'Ceil', 'Cos', 'Cosh', 'Elu', 'EluGrad', 'Erf', 'Exp'],
  ...[
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
  ],
  ...['Sinh', 'Softplus', 'Sqrt', 'Square', 'Tan', 'Tanh', 'IsFinite', 'IsInf', 'IsNan', 'LogicalNot', 'Add', 'Atan2'],
  ...['BitwiseAnd', 'FloorDiv', 'Maximum', 'Minimum', 'Mod', 'Multiply', 'Pow', 'RealDiv', 'Sub', 'Equal', 'Greater'],
  ...['GreaterEqual', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr', 'NotEqual', 'LeakyRelu', 'Step', 'ClipByValue'],
  ...['Prelu', 'Cast', 'Select', 'Reshape', 'Transpose', 'Slice', 'StridedSlice', 'Concat', 'PadV2', 'Tile', 'Reverse'],
  ...['Fill', 'Range', 'OneHot', 'GatherV2', 'GatherNd', 'Identity'],
  ...['PlexusGelu', 'PlexusGeluGrad', 'PlexusSilu', 'PlexusSiluGrad', 'PlexusLayerNorm', 'PlexusRmsNorm'],
]);

/** Whether recomputing a node costs next to nothing. */
export function isCheap(node: GraphNode): boolean {
  return CHEAP.has(node.kernel);
}

/** Whether the backward may compute a node again, by kernel and by the caller's policy for its module path. */
export function mayRecompute(node: GraphNode, remat: VjpOptions['remat']): boolean {
  if (isBoundary(node)) return false;
  const policy = typeof remat === 'function' ? remat(node.path) : (remat ?? 'none');
  return policy === 'full' || isCheap(node);
}

/** What the choice of residuals depends on. */
export interface RematProblem {
  readonly graph: Graph;
  /** Values of the forward (or derived from it alone) that the backward reads. */
  readonly demanded: Iterable<ValueId>;
  /** The node that makes a value; undefined for inputs and constants, which are always at hand. */
  readonly producer: (id: ValueId) => GraphNode | undefined;
  readonly recomputable: (node: GraphNode) => boolean;
  /** Whether the forward computes a value, so that it can be kept. */
  readonly keepable: (node: GraphNode) => boolean;
}

/**
 * The cheapest set of forward values, in bytes, from which the backward can recompute what it reads: a minimum cut
 * between what cannot be recomputed and what is read (as in Jain et al. 2020, Checkmate, with bytes as the only cost).
 * Among equal cuts, the one that recomputes least.
 */
export function chooseResiduals({ graph, demanded, producer, recomputable, keepable }: RematProblem): Set<ValueId> {
  const network = new FlowNetwork();
  const ends = new Map<ValueId, { readonly into: number; readonly out: number }>();
  const stack: ValueId[] = [];
  const endsOf = (id: ValueId) => {
    const known = ends.get(id);
    if (known) return known;
    const node = producer(id) as GraphNode;
    const made = { into: network.node(), out: network.node() };
    ends.set(id, made);
    network.edge(
      made.into,
      made.out,
      keepable(node) ? byteLengthOf(graph.values.get(id) as GraphValue) + 1 : UNCUTTABLE,
    );
    stack.push(id);
    return made;
  };
  for (const id of demanded) if (producer(id)) network.edge(endsOf(id).out, 1, UNCUTTABLE);
  for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
    const node = producer(id) as GraphNode;
    const { into } = endsOf(id);
    if (!recomputable(node)) network.edge(0, into, UNCUTTABLE);
    else for (const input of node.inputs) if (producer(input)) network.edge(endsOf(input).out, into, UNCUTTABLE);
  }
  const side = network.sinkSide();
  const kept = new Set<ValueId>();
  for (const [id, { into, out }] of ends) if (side.has(out) && !side.has(into)) kept.add(beforeReshape(id, producer));
  return kept;
}

/** A reshaped tensor is kept as it was before: the same bytes, without a copy. */
function beforeReshape(id: ValueId, producer: RematProblem['producer']): ValueId {
  let at = id;
  for (let node = producer(at); node?.kernel === 'Reshape' && producer(node.inputs[0] as ValueId); node = producer(at))
    at = node.inputs[0] as ValueId;
  return at;
}
