import type { Tensor } from '@tensorflow/tfjs-core';
import type { Signature, TensorFunction, VjpOptions } from '../engine.ts';
import { EngineError, placeName } from '../errors.ts';
import type { Graph, ValueId } from '../graph.ts';
import { isBoundary } from './definition.ts';
import './register.ts';
import { recording, tensorOf } from './backend.ts';
import { backpropagate, type TapeNode, withTape } from './backprop.ts';
import { withTraceGradients } from './gradients/index.ts';
import { withFunctionName } from './path.ts';
import { Recorder } from './recorder.ts';
import { tf } from './tf.ts';

/** Options of a trace. */
export interface TraceOptions {
  /** Name of the function: what module paths are prefixed with in errors. */
  readonly name?: string;
}

/**
 * Runs `fn` once on tensors without numbers and records what it does.
 * @throws EngineError naming the module path where the function reads numbers, uses a kernel without a lowering, or fails.
 */
export function trace(fn: TensorFunction, signature: readonly Signature[], options: TraceOptions = {}): Graph {
  const recorder = new Recorder();
  const name = options.name ?? '';
  return recording(recorder, () =>
    withFunctionName(name, () => {
      const inputs = signature.map((each) => tensorOf(recorder.input(each)));
      const outputs = call(fn, inputs, name);
      return recorder.finish(outputs.map((output) => recorder.resolve(output)));
    }),
  );
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
    withFunctionName(name, () =>
      withTraceGradients(() => {
        const inputIds = signature.map((each) => recorder.input(each));
        const inputs = inputIds.map(tensorOf);
        return withTape(
          () => call(fn, inputs, name),
          (outputs, tape) => differentiate(recorder, tape, { inputIds, inputs, outputs, name, ...options }),
        );
      }),
    ),
  );
}

interface Forward extends Pick<VjpOptions, 'wrt' | 'differentiable'> {
  readonly inputIds: readonly ValueId[];
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly name: string;
}

function differentiate(recorder: Recorder, tape: readonly TapeNode[], forward: Forward): VjpTrace {
  const { inputIds, inputs, outputs, name, wrt, differentiable } = forward;
  if (outputs.length !== differentiable.length)
    throw new EngineError(
      `${placeName(name)}: differentiable has ${differentiable.length} entries, but the function returned ${outputs.length} outputs`,
      { path: name },
    );
  const outputIds = outputs.map((output) => recorder.resolve(output));
  const cotangentIds = outputs.map((output, i) =>
    differentiable[i] && output.dtype === 'float32' ? recorder.input({ dtype: 'float32', shape: output.shape }) : null,
  );
  recorder.backward = true;
  const wanted = inputs.filter((input, i) => wrt[i] && input.dtype === 'float32');
  const seeds = outputs.flatMap((output, i): [Tensor, Tensor][] => {
    const id = cotangentIds[i];
    return id == null ? [] : [[output, tensorOf(id)]];
  });
  const cotangents = backpropagate(recorder, tape, wanted, seeds);
  const gradients = inputs.map((input, i) => {
    const gradient = wrt[i] && input.dtype === 'float32' ? cotangents.get(input.id) : undefined;
    return gradient === undefined ? null : recorder.resolve(gradient);
  });
  const graph = recorder.finish([...outputIds, ...gradients.filter((id) => id !== null)]);
  return { graph, inputs: inputIds, outputs: outputIds, cotangents: usedOnly(graph, cotangentIds), gradients };
}

function call(fn: TensorFunction, inputs: readonly Tensor[], name: string): Tensor[] {
  const result = withFunctionName(name, () => fn(...inputs));
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

/** Null for cotangents that no gradient depends on. */
function usedOnly(graph: Graph, cotangents: readonly (ValueId | null)[]): (ValueId | null)[] {
  const used = new Set<ValueId>(graph.outputs);
  for (const node of [...graph.nodes].reverse())
    if (isBoundary(node) || node.outputs.some((id) => used.has(id))) for (const id of node.inputs) used.add(id);
  return cotangents.map((id) => (id !== null && used.has(id) ? id : null));
}
