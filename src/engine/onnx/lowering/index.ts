import { sizeOf } from '../../../tensor/index.ts';
import { EngineError, placeName, signatureText } from '../../errors.ts';
import type { Graph, ValueId } from '../../graph.ts';
import { OnnxBuilder, type Ref, sameShape } from '../model.ts';
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

/** A graph as an ONNX model: names by position. */
export interface LoweredGraph {
  readonly bytes: Uint8Array;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** ONNX nodes in the model. */
  readonly nodes: number;
}

/**
 * Lowers a graph to an ONNX model.
 * @throws EngineError for a kernel without a lowering, naming the module path, the kernel and the shapes.
 */
export function lower(graph: Graph, name: string, target: LoweringTarget): LoweredGraph {
  const builder = new OnnxBuilder();
  const refs = new Map<ValueId, Ref>();
  const spec = (id: ValueId) => graph.values.get(id) as { dtype: 'float32' | 'int32' | 'bool'; shape: readonly number[] };
  const ref = (id: ValueId): Ref => {
    const found = refs.get(id);
    if (!found) throw new EngineError(`${name}: value ${id} is used before it is computed: the graph is not in order`);
    return found;
  };
  for (const id of graph.inputs) refs.set(id, builder.input({ dtype: spec(id).dtype, shape: spec(id).shape }));
  for (const { id, data } of graph.constants) refs.set(id, builder.constant(spec(id).dtype, spec(id).shape, data));
  for (const node of graph.nodes) {
    const outputs = node.outputs.map((id) => ({ dtype: spec(id).dtype, shape: spec(id).shape }));
    const lowering = table[node.kernel];
    if (!lowering) {
      const shapes = node.inputs.map((id) => signatureText(spec(id))).join(', ');
      throw new EngineError(
        `${placeName(node.path)}: tfjs kernel ${node.kernel}(${shapes}) has no lowering to ONNX; ` +
          `write the op with others, or run with engine.kind: tfjs`,
        { path: node.path },
      );
    }
    builder.at(`${node.path}/${node.backward ? 'grad.' : ''}${node.kernel}`);
    if (outputs.every((output) => sizeOf(output.shape) === 0)) {
      node.outputs.forEach((id, i) => refs.set(id, builder.full(outputs[i] as Ref, 0)));
      continue;
    }
    const context = new LoweringContext(builder, target, node, node.inputs.map(ref), outputs);
    const results = [lowering(context)].flat() as Ref[];
    node.outputs.forEach((id, i) => {
      const [result, expected] = [results[i], outputs[i] as Ref];
      if (!result || result.dtype !== expected.dtype || !sameShape(result.shape, expected.shape))
        context.fail(`was lowered to ${result ? signatureText(result) : 'nothing'}, expected ${signatureText(expected)}`);
      refs.set(id, result);
    });
  }
  return builder.finish(name, graph.outputs.map(ref));
}
