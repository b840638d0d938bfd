import type { Tensor } from '@tensorflow/tfjs-core';
import type { Signature, TensorFunction, VjpOptions } from '../engine.ts';
import { EngineError, placeName, signatureText } from '../errors.ts';
import type { Graph, ValueId } from '../graph.ts';
import './register.ts';
import { recording, tensorOf } from './backend.ts';
import { backpropagate, withTape } from './backprop.ts';
import { withTraceGradients } from './gradients.ts';
import { withPath } from './path.ts';
import { Recorder } from './recorder.ts';
import { tf } from './tf.ts';

/** Options of a trace. */
export interface TraceOptions {
  /** Path under which nodes outside of any `withPath` are recorded; the name of the function in errors. */
  readonly name?: string;
}

/**
 * Runs `fn` once on tensors without numbers and records what it does.
 * @throws EngineError naming the module path where the function reads numbers, uses a kernel without a lowering, or fails.
 */
export function trace(fn: TensorFunction, signature: readonly Signature[], options: TraceOptions = {}): Graph {
  const recorder = new Recorder();
  return recording(recorder, () => {
    const inputs = signature.map((each) => tensorOf(recorder.input(each)));
    const outputs = call(fn, inputs, options.name ?? '');
    return recorder.finish(outputs.map((output) => recorder.resolve(output)));
  });
}

/** Shapes and dtypes of what `fn` returns, found by tracing it. */
export function inferOutputs(
  fn: TensorFunction,
  signature: readonly Signature[],
  options: TraceOptions = {},
): Signature[] {
  const graph = trace(fn, signature, options);
  return graph.outputs.map((id) => signatureOf(graph, id));
}

/** Shape and dtype of a value. */
export function signatureOf(graph: Graph, id: ValueId): Signature {
  const { dtype, shape } = graph.values.get(id) as Signature;
  return { dtype, shape };
}

/** Forward and backward of a function in one graph. */
export interface VjpTrace {
  /** Inputs: the function's, then the cotangents. Outputs: the function's, then the gradients that exist. */
  readonly graph: Graph;
  readonly inputs: readonly ValueId[];
  readonly outputs: readonly ValueId[];
  /** The cotangent input of each output; null where it takes none or has no effect. */
  readonly cotangents: readonly (ValueId | null)[];
  /** The gradient of each input; null where none was asked for or none exists. */
  readonly gradients: readonly (ValueId | null)[];
}

/**
 * Traces a function together with its vector-Jacobian product: cotangents of its outputs in, gradients of its inputs
 * out. The gradient's nodes are marked `backward` and carry the module path of the op that they are the gradient of.
 */
export function traceVjp(
  fn: TensorFunction,
  signature: readonly Signature[],
  options: Pick<VjpOptions, 'wrt' | 'differentiable'> & TraceOptions,
): VjpTrace {
  const recorder = new Recorder();
  const name = options.name ?? '';
  if (options.wrt.length !== signature.length)
    throw new EngineError(`${placeName(name)}: wrt has ${options.wrt.length} entries for ${signature.length} inputs`, {
      path: name,
    });
  return recording(recorder, () =>
    withTraceGradients(() => {
      const inputIds = signature.map((each) => recorder.input(each));
      const inputs = inputIds.map(tensorOf);
      return withTape(
        () => call(fn, inputs, name),
        (outputs, tape) => {
          if (outputs.length !== options.differentiable.length)
            throw new EngineError(
              `${placeName(name)}: differentiable has ${options.differentiable.length} entries, but the function returned ${outputs.length} outputs`,
              { path: name },
            );
          const outputIds = outputs.map((output) => recorder.resolve(output));
          const cotangentIds = outputs.map((output, i) =>
            options.differentiable[i] && output.dtype === 'float32' ? recorder.input(signatureOfTensor(output)) : null,
          );
          recorder.backward = true;
          const wanted = inputs.filter((input, i) => options.wrt[i] && input.dtype === 'float32');
          const seeds = outputs.flatMap((output, i): [Tensor, Tensor][] => {
            const id = cotangentIds[i];
            return id == null ? [] : [[output, tensorOf(id)]];
          });
          const cotangents = backpropagate(tape, wanted, seeds);
          const gradients = inputs.map((input, i) => {
            const gradient = options.wrt[i] ? cotangents.get(input.id) : undefined;
            return gradient === undefined || input.dtype !== 'float32' ? null : recorder.resolve(gradient);
          });
          const found = gradients.filter((id) => id !== null);
          const graph = recorder.finish([...outputIds, ...found]);
          return { graph, inputs: inputIds, outputs: outputIds, cotangents: usedOnly(graph, cotangentIds), gradients };
        },
      );
    }),
  );
}

function call(fn: TensorFunction, inputs: readonly Tensor[], name: string): Tensor[] {
  const result = withPath(name, () => fn(...inputs));
  const list = (Array.isArray(result) ? result : [result]) as readonly unknown[];
  return list.map((output, i) => {
    if (output instanceof tf.Tensor) return output;
    if (output instanceof Promise)
      throw new EngineError(`${placeName(name)}: returned a promise; a traced function must be synchronous`, {
        path: name,
      });
    throw new EngineError(`${placeName(name)}: output ${i} is ${typeOf(output)}, expected a tensor`, { path: name });
  });
}

function typeOf(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`;
}

function signatureOfTensor(tensor: Tensor): Signature {
  if (tensor.dtype !== 'float32') throw new EngineError(`a cotangent of ${signatureText(tensor)}`);
  return { dtype: tensor.dtype, shape: tensor.shape };
}

/** Null for cotangents that no gradient depends on. */
function usedOnly(graph: Graph, cotangents: readonly (ValueId | null)[]): (ValueId | null)[] {
  const used = new Set<ValueId>(graph.outputs);
  for (const node of [...graph.nodes].reverse())
    if (node.outputs.some((id) => used.has(id))) for (const id of node.inputs) used.add(id);
  return cotangents.map((id) => (id !== null && used.has(id) ? id : null));
}
