import { sizeOf } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import { EngineError, placeName, signatureText } from '../../errors.ts';
import type { Graph, ValueId } from '../../graph.ts';
import { type FinishedModel, OnnxBuilder, type Ref, sameShape } from '../model.ts';
import { LoweringContext, type LoweringTable, type LoweringTarget } from './context.ts';
import { elementwise } from './elementwise.ts';
import { images } from './image.ts';
import { indexing } from './indexing.ts';
import { layout } from './layout.ts';
import { matmuls } from './matmul.ts';
import { plexus } from './plexus.ts';
import { reductions } from './reduction.ts';

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
  /** For export: every output in its own shape. */
  readonly exactShapes?: boolean;
}

/**
 * Lowers a graph to an ONNX model, whose inputs and outputs are the graph's by position.
 * @throws EngineError for a kernel without a lowering, naming the module path, the kernel and the shapes.
 */
export function lower(graph: Graph, name: string, options: LoweringOptions): FinishedModel {
  const builder = new OnnxBuilder();
  const refs = new Map<ValueId, Ref>();
  const spec = (id: ValueId): Signature => {
    const { dtype, shape } = graph.values.get(id) as Signature;
    return { dtype, shape };
  };
  const ref = (id: ValueId): Ref => {
    const found = refs.get(id);
    if (!found) throw new EngineError(`${name}: value ${id} is used before it is computed: the graph is not in order`);
    return found;
  };
  for (const id of graph.inputs) refs.set(id, builder.input(spec(id)));
  for (const { id, data } of graph.constants) refs.set(id, builder.constant(spec(id).dtype, spec(id).shape, data));
  for (const node of graph.nodes) {
    const specs = node.outputs.map(spec);
    const lowering = table[node.kernel];
    if (!lowering) {
      const shapes = node.inputs.map((id) => signatureText(spec(id))).join(', ');
      throw new EngineError(
        `${placeName(node.path)}: tfjs kernel ${node.kernel}(${shapes}) has no lowering to ONNX; ` +
          'write the op with others, or run with engine.kind: tfjs',
        { path: node.path },
      );
    }
    builder.at(`${node.path}/${node.backward ? 'grad.' : ''}${node.kernel}`);
    if (specs.every(({ shape }) => sizeOf(shape) === 0)) {
      node.outputs.forEach((id, i) => {
        refs.set(id, builder.full(specs[i] as Signature, 0));
      });
      continue;
    }
    const context = new LoweringContext(builder, options, node, node.inputs.map(ref), specs);
    const results = [lowering(context)].flat() as Ref[];
    node.outputs.forEach((id, i) => {
      const [result, expected] = [results[i], specs[i] as Signature];
      if (!result || result.dtype !== expected.dtype || !sameShape(result.shape, expected.shape))
        context.fail(
          `was lowered to ${result ? signatureText(result) : 'nothing'}, expected ${signatureText(expected)}`,
        );
      refs.set(id, result);
    });
  }
  const outputs = graph.outputs.map(ref);
  if (options.provider !== 'cpu' || options.exactShapes === true) return builder.finish(name, outputs);
  // See `InPlaceSession` for what the marker is good for. It is no output of the graph's.
  const marker = builder.full({ dtype: 'float32', shape: [1] }, 1);
  const model = builder.finish(name, [marker, ...outputs], true);
  return { ...model, outputs: model.outputs.slice(1), outputShapes: model.outputShapes.slice(1) };
}
