import { type Shape, sizeOf } from '../../../tensor/index.ts';
import type { Graph, GraphNode, ValueId } from '../../graph.ts';

// Element-wise work is bound by memory: each ONNX operator reads and writes whole tensors, which do not fit the cache.
// A region is a group of nodes that treat rows alone: run for a block of rows at a time (one Scan over blocks), what
// passes between them stays in the cache. Measured on the GELU gradient of 1,024 x 1,024: 3.3 ms as ten operators, 1.7
// as one Scan; a row's bits are the same, since no operator here looks at other rows and blocks end at multiples of the
// vector width.

/** Nodes to run block by block. */
export interface Region {
  readonly nodes: readonly GraphNode[];
  /** Tensors of the region have this many axes, and equal sizes along all but the last one. */
  readonly rank: number;
  /** Axes before this one are cut into single indices; it is itself cut into pieces of `rows`. */
  readonly axis: number;
  readonly rows: number;
  readonly blocks: number;
}

/** Operators that a kernel becomes, where that is not one: how much memory traffic a region saves. */
const PASSES: Readonly<Record<string, number>> = {
  PlexusGeluGrad: 10,
  PlexusSiluGrad: 6,
  PlexusRmsNorm: 5,
  Expm1: 5,
  Log1p: 6,
  EluGrad: 3,
  Atan2: 8,
  Step: 3,
};

const ELEMENTWISE = new Set([
  'Abs',
  'Neg',
  'Square',
  'Exp',
  'Erf',
  'Log',
  'Sqrt',
  'Rsqrt',
  'Reciprocal',
  'Tanh',
  'Sigmoid',
  'Relu',
  'Elu',
  'LeakyRelu',
  'Softplus',
  'Expm1',
  'Log1p',
  'Sin',
  'Cos',
  'Sign',
  'Step',
  'ClipByValue',
  'Cast',
  'LogicalNot',
  'Add',
  'Sub',
  'Multiply',
  'RealDiv',
  'Maximum',
  'Minimum',
  'Pow',
  'Equal',
  'NotEqual',
  'Greater',
  'GreaterEqual',
  'Less',
  'LessEqual',
  'LogicalAnd',
  'LogicalOr',
  'Select',
  'EluGrad',
  'PlexusGelu',
  'PlexusGeluGrad',
  'PlexusSilu',
  'PlexusSiluGrad',
]);
/** Kernels along the last axis whose first input has rows, and whose other inputs belong to every row. */
const ALONG_ROW = new Set(['Softmax', 'LogSoftmax', 'PlexusLayerNorm', 'PlexusRmsNorm']);
const REDUCTIONS: Readonly<Record<string, string>> = {
  Sum: 'axis',
  Mean: 'axis',
  Max: 'reductionIndices',
  Min: 'axis',
};

/** Elements of a block: small enough for the second-level cache of one core, with all that a region keeps. */
const BLOCK = 32768;
/** Blocks hold a multiple of this many rows, so that vectors never cross a block's end. */
const VECTOR = 16;
/** Tensors below this many elements stay in the cache anyway. */
const SMALL = 131072;

interface Open {
  nodes: GraphNode[];
  /** Shape without the last axis. */
  readonly lead: Shape;
  /** The last axis that may be cut: operands without the axes before have no share in them. */
  deepest: number;
  elements: number;
  passes: number;
}

/** Order of execution: single nodes and regions. */
export type Step = GraphNode | Region;

/** Tells the two kinds of step apart. */
export function isRegion(step: Step): step is Region {
  return 'blocks' in step;
}

/** Groups a graph's nodes into regions where that saves memory traffic. `threads` share one region. */
export function planRegions(graph: Graph, threads: number): Step[] {
  const steps: Step[] = [];
  const home = new Map<ValueId, Open>();
  const shapeOf = (id: ValueId): Shape => graph.values.get(id)?.shape ?? [];
  const close = (region: Open): void => {
    for (const node of region.nodes) for (const id of node.outputs) home.delete(id);
    steps.push(...finished(region, threads));
  };
  for (const node of graph.nodes) {
    const place = rowPlace(node, shapeOf);
    const sources = new Set(node.inputs.flatMap((id) => home.get(id) ?? []));
    const joined: Open[] = [];
    for (const source of sources) {
      const fits =
        place &&
        same(source.lead, place.lead) &&
        node.inputs.every((id) => home.get(id) !== source || place.rows.has(id));
      if (fits) joined.push(source);
      else close(source);
    }
    if (!place) {
      steps.push(node);
      continue;
    }
    const region: Open = joined[0] ?? { nodes: [], lead: place.lead, deepest: place.deepest, elements: 0, passes: 0 };
    for (const other of joined.slice(1)) merge(region, other, home);
    region.nodes.push(node);
    region.deepest = Math.min(region.deepest, place.deepest);
    region.elements = Math.max(region.elements, place.elements);
    region.passes += ((PASSES[node.kernel] ?? 1) * place.elements) / region.elements;
    for (const id of node.outputs) home.set(id, region);
  }
  for (const region of new Set(home.values())) close(region);
  return steps;
}

/** Joins two open regions: neither has been read from outside yet, so their nodes can run in one go. */
function merge(region: Open, other: Open, home: Map<ValueId, Open>): void {
  region.nodes.push(...other.nodes);
  region.deepest = Math.min(region.deepest, other.deepest);
  region.elements = Math.max(region.elements, other.elements);
  region.passes += other.passes;
  for (const node of other.nodes) for (const id of node.outputs) home.set(id, region);
}

interface Place {
  readonly lead: Shape;
  readonly deepest: number;
  readonly elements: number;
  /** Inputs that have rows; the others are the same for all rows. */
  readonly rows: ReadonlySet<ValueId>;
}

/** How a node sits in a region; null if it looks across rows. */
function rowPlace(node: GraphNode, shapeOf: (id: ValueId) => Shape): Place | null {
  const [first, ...others] = node.inputs;
  if (first === undefined) return null;
  const along = ALONG_ROW.has(node.kernel);
  const reduced = REDUCTIONS[node.kernel];
  if (!along && reduced === undefined && !ELEMENTWISE.has(node.kernel)) return null;
  const shape = along || reduced !== undefined ? shapeOf(first) : shapeOf(node.outputs[0] as ValueId);
  const rank = shape.length;
  if (rank < 2 || sizeOf(shape) === 0) return null;
  const lead = shape.slice(0, -1);
  const elements = sizeOf(shape);
  if (reduced !== undefined) {
    const axes = node.attrs[reduced] as readonly number[];
    if (node.attrs.keepDims !== true || axes.length !== 1 || axes[0] !== rank - 1) return null;
    return { lead, deepest: rank - 2, elements, rows: new Set([first]) };
  }
  if (along) {
    if (others.some((id) => shapeOf(id).length > 1)) return null;
    return { lead, deepest: rank - 2, elements, rows: new Set([first]) };
  }
  const rows = new Set<ValueId>();
  let deepest = rank - 2;
  for (const id of node.inputs) {
    const operand = shapeOf(id);
    if (operand.length === rank && same(operand.slice(0, -1), lead)) {
      rows.add(id);
      continue;
    }
    // Axes that the operand lacks, or has only in name.
    let absent = rank - operand.length;
    while (absent < rank && operand[absent - (rank - operand.length)] === 1) absent++;
    if (absent === 0) return null;
    deepest = Math.min(deepest, absent - 1);
  }
  return { lead, deepest, elements, rows };
}

/** The region with its cut, or its nodes one by one where blocks would not pay. */
function finished(region: Open, threads: number): Step[] {
  const { nodes, lead, elements, passes } = region;
  if (elements < SMALL || passes < 2.5) return nodes;
  const width = elements / sizeOf(lead);
  const limit = BLOCK * threads;
  let axis = 0;
  const beyond = (at: number): number => sizeOf(lead.slice(at + 1)) * width;
  while (axis < region.deepest && beyond(axis) > limit) axis++;
  const length = lead[axis] as number;
  const inner = sizeOf(lead.slice(axis + 1));
  let rows = 0;
  for (let candidate = 1; candidate <= length; candidate++)
    if (
      length % candidate === 0 &&
      (candidate * inner) % VECTOR === 0 &&
      (rows === 0 || candidate * inner * width <= limit)
    )
      rows = candidate;
  const blocks = rows === 0 ? 0 : sizeOf(lead.slice(0, axis + 1)) / rows;
  return blocks < 3 ? nodes : [{ nodes, rank: lead.length + 1, axis, rows, blocks }];
}

function same(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}
