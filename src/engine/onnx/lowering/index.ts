import { type Shape, sizeOf } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import { EngineError, placeName, signatureText } from '../../errors.ts';
import type { Graph, GraphNode, ValueId } from '../../graph.ts';
import { type FinishedModel, OnnxBuilder, type Ref, sameShape } from '../model.ts';
import { LoweringContext, type LoweringTable, type LoweringTarget } from './context.ts';
import { elementwise } from './elementwise.ts';
import { images } from './image.ts';
import { indexing } from './indexing.ts';
import { layout } from './layout.ts';
import { matmuls } from './matmul.ts';
import { plexus } from './plexus.ts';
import { reductions } from './reduction.ts';
import { isRegion, planRegions, type Region, type Step } from './regions.ts';

export type { LoweringTarget } from './context.ts';

const table: LoweringTable = {
  ...elementwise,
  ...reductions,
  ...layout,
  ...indexing,
  ...matmuls,
  ...images,
  ...plexus,
};

/** Names of the kernels that can be lowered to ONNX. */
export function loweredKernels(): string[] {
  return Object.keys(table).sort();
}

/** How to lower a graph. */
export interface LoweringOptions extends LoweringTarget {
  /** For export: outputs in their own shapes, one operator after the other. */
  readonly plain?: boolean;
}

/**
 * Lowers a graph to an ONNX model, whose inputs and outputs are the graph's by position.
 * @throws EngineError for a kernel without a lowering, naming the module path, the kernel and the shapes.
 */
export function lower(graph: Graph, name: string, options: LoweringOptions): FinishedModel {
  const builder = new OnnxBuilder();
  const scope = new Scope(graph, name, builder, options);
  for (const id of graph.inputs) scope.refs.set(id, builder.input(scope.spec(id)));
  for (const { id, data } of graph.constants)
    scope.refs.set(id, builder.constant(scope.spec(id).dtype, scope.spec(id).shape, data));
  const blockwise = options.provider === 'cpu' && options.plain !== true;
  const steps = blockwise ? planRegions(graph, options.threads) : graph.nodes;
  const leaving = blockwise ? readOutside(graph, steps) : new Set<ValueId>();
  for (const step of steps) {
    if (isRegion(step)) scope.region(step, leaving);
    else scope.node(step);
  }
  const outputs = graph.outputs.map((id) => scope.ref(id));
  if (!blockwise) return builder.finish(name, outputs);
  // See `inPlaceSession` for what the marker is good for. It is no output of the graph's.
  const marker = builder.full({ dtype: 'float32', shape: [1] }, 1);
  const model = builder.finish(name, [marker, ...outputs], true);
  return { ...model, outputs: model.outputs.slice(1), outputShapes: model.outputShapes.slice(1) };
}

/** Values that a node outside of their region, or the caller, reads. */
function readOutside(graph: Graph, steps: readonly Step[]): Set<ValueId> {
  const read = new Set<ValueId>(graph.outputs);
  for (const step of steps) {
    const nodes = isRegion(step) ? step.nodes : [step];
    const own = new Set(nodes.flatMap((node) => node.outputs));
    for (const node of nodes) for (const id of node.inputs) if (!own.has(id)) read.add(id);
  }
  return read;
}

/** The values of a graph as far as they have been lowered, in one ONNX graph. */
class Scope {
  readonly refs = new Map<ValueId, Ref>();
  private readonly graph: Graph;
  private readonly name: string;
  private readonly builder: OnnxBuilder;
  private readonly target: LoweringTarget;

  constructor(graph: Graph, name: string, builder: OnnxBuilder, target: LoweringTarget) {
    this.graph = graph;
    this.name = name;
    this.builder = builder;
    this.target = target;
  }

  spec(id: ValueId): Signature {
    const { dtype, shape } = this.graph.values.get(id) as Signature;
    return { dtype, shape };
  }

  ref(id: ValueId): Ref {
    const found = this.refs.get(id);
    if (!found)
      throw new EngineError(`${this.name}: value ${id} is used before it is computed: the graph is not in order`);
    return found;
  }

  /** Lowers a node. `specs` are its outputs here: those of one block inside of a region. */
  node(node: GraphNode, specs: readonly Signature[] = node.outputs.map((id) => this.spec(id))): void {
    const lowering = table[node.kernel];
    if (!lowering) {
      const shapes = node.inputs.map((id) => signatureText(this.spec(id))).join(', ');
      throw new EngineError(
        `${placeName(node.path)}: tfjs kernel ${node.kernel}(${shapes}) has no lowering to ONNX; ` +
          'write the op with others, or run with engine.kind: tfjs',
        { path: node.path },
      );
    }
    this.builder.at(`${node.path}/${node.backward ? 'grad.' : ''}${node.kernel}`);
    if (specs.every(({ shape }) => sizeOf(shape) === 0)) {
      node.outputs.forEach((id, i) => {
        this.refs.set(id, this.builder.full(specs[i] as Signature, 0));
      });
      return;
    }
    const context = new LoweringContext(
      this.builder,
      this.target,
      node,
      node.inputs.map((id) => this.ref(id)),
      specs,
    );
    const results = [lowering(context)].flat() as Ref[];
    node.outputs.forEach((id, i) => {
      const [result, expected] = [results[i], specs[i] as Signature];
      if (!result || result.dtype !== expected.dtype || !sameShape(result.shape, expected.shape))
        context.fail(
          `was lowered to ${result ? signatureText(result) : 'nothing'}, expected ${signatureText(expected)}`,
        );
      this.refs.set(id, result);
    });
  }

  /** Lowers a region to a Scan over blocks of rows; the tensors of a block keep their rank. */
  region(region: Region, leaving: ReadonlySet<ValueId>): void {
    const { nodes, rank, axis, rows, blocks } = region;
    const lead = (this.graph.values.get(nodes[0]?.outputs[0] as ValueId) as Signature).shape.slice(0, axis + 1);
    const hasRows = (shape: Shape): boolean => shape.length === rank && lead.every((dim, i) => shape[i] === dim);
    const blockOf = (shape: Shape): number[] => shape.map((dim, i) => (i < axis ? 1 : i === axis ? rows : dim));
    const inner = new Scope(this.graph, this.name, this.builder.child(), this.target);
    const made = new Set(nodes.flatMap((node) => node.outputs));
    const sliced: Ref[] = [];
    for (const id of new Set(nodes.flatMap((node) => node.inputs))) {
      if (made.has(id)) continue;
      const outer = this.ref(id);
      if (!hasRows(outer.shape)) {
        inner.refs.set(id, outer);
        continue;
      }
      const shape = blockOf(outer.shape);
      sliced.push(this.builder.reshape(outer, [blocks, ...shape]));
      inner.refs.set(id, inner.builder.input({ dtype: outer.dtype, shape }));
    }
    for (const node of nodes) {
      const specs = node.outputs.map((id) => this.spec(id));
      inner.node(
        node,
        specs.map(({ dtype, shape }) => ({ dtype, shape: blockOf(shape) })),
      );
    }
    const results = [...made].filter((id) => leaving.has(id));
    const body = inner.builder.finishBody(results.map((id) => inner.ref(id)));
    this.builder.at(`${nodes[0]?.path ?? ''}/rows.${[...new Set(nodes.map((node) => node.kernel))].join('+')}`);
    const specs = results.map((id) => this.spec(id));
    const stacked = specs.map(({ dtype, shape }) => ({ dtype, shape: [blocks, ...blockOf(shape)] }));
    const refs = this.builder.scan(sliced, body, stacked);
    results.forEach((id, i) => {
      this.refs.set(id, this.builder.reshape(refs[i] as Ref, (specs[i] as Signature).shape));
    });
  }
}
