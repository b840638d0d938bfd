import type { NamedAttrMap, NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import { EngineError, placeName, signatureText } from '../errors.ts';
import type { Graph, GraphNode, GraphValue, ValueId } from '../graph.ts';
import { uniformReference } from '../ops/index.ts';
import { kernelDefinition, tf } from '../trace/index.ts';
import { replacement } from './replacements.ts';

/** A graph with what running it repeatedly needs. */
export interface Interpretation {
  readonly graph: Graph;
  readonly name: string;
  /** Path of the module that it is of, before the paths of its nodes. */
  readonly path: string;
  readonly constants: ReadonlyMap<ValueId, Tensor>;
  /** For each node, the values that nothing after it reads. */
  readonly lastUses: readonly (readonly ValueId[])[];
}

/** Prepares a graph: uploads its constants to the current tfjs backend, finds where values die. */
export function prepare(graph: Graph, name: string): Interpretation {
  const constants = new Map<ValueId, Tensor>();
  for (const { id, data } of graph.constants) {
    const { dtype, shape } = graph.values.get(id) as GraphValue;
    constants.set(id, tf.keep(tf.tensor(data, [...shape], dtype)));
  }
  const kept = new Set([...graph.outputs, ...graph.inputs, ...constants.keys()]);
  const seen = new Set<ValueId>();
  const lastUses = graph.nodes.map(() => [] as ValueId[]);
  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const node = graph.nodes[i] as GraphNode;
    for (const id of [...node.inputs, ...node.outputs])
      if (!seen.has(id) && !kept.has(id)) {
        seen.add(id);
        (lastUses[i] as ValueId[]).push(id);
      }
  }
  return { graph, name, path: name, constants, lastUses };
}

/** Gives the constants' memory back. */
export function disposeConstants({ constants }: Interpretation): void {
  for (const tensor of constants.values()) tensor.dispose();
}

/**
 * Runs a graph on the current tfjs backend. The outputs are the caller's to dispose; an output never is an input.
 * `keys` holds the numbers of random keys that the backend cannot read at once.
 */
export function interpret(
  { graph, name, path, constants, lastUses }: Interpretation,
  inputs: readonly Tensor[],
  keys: ReadonlyMap<ValueId, ArrayLike<number>> = new Map(),
): Tensor[] {
  return tf.tidy(() => {
    const values = new Map<ValueId, Tensor>(constants);
    graph.inputs.forEach((id, i) => {
      values.set(id, inputs[i] as Tensor);
    });
    const taken = new Set<Tensor>(values.values());
    graph.nodes.forEach((node, i) => {
      const key = node.kernel === 'PlexusUniform' ? keys.get(node.inputs[0] as ValueId) : undefined;
      const given = node.inputs.map((id) => values.get(id) as Tensor);
      const outputs = key === undefined ? runNode(node, given, path) : [uniformOf(key, node)];
      node.outputs.forEach((id, k) => {
        const output = outputs[k] as Tensor;
        checkShape(node, output, graph.values.get(id) as GraphValue, name);
        values.set(id, output);
      });
      for (const id of lastUses[i] as readonly ValueId[]) {
        values.get(id)?.dispose();
        values.delete(id);
      }
    });
    return graph.outputs.map((id) => {
      const output = values.get(id) as Tensor;
      if (!taken.has(output)) {
        taken.add(output);
        return output;
      }
      return tf.clone(output);
    });
  });
}

function uniformOf(key: ArrayLike<number>, node: GraphNode): Tensor {
  const { shape, stream } = node.attrs as { shape: number[]; stream: number };
  return tf.tensor(uniformReference(key, shape, stream), shape, 'float32');
}

function runNode(node: GraphNode, inputs: readonly Tensor[], path: string): Tensor[] {
  try {
    const special = replacement(node, inputs);
    if (special !== null) return Array.isArray(special) ? special : [special];
    const names = kernelDefinition(node.kernel)?.inputs;
    if (names === undefined) throw new EngineError(`the kernel ${node.kernel} is not one that graphs may contain`);
    const given =
      names === 'list' ? [...inputs] : Object.fromEntries(names.map((key, i) => [key, inputs[i] as Tensor]));
    const result = tf
      .engine()
      .runKernel(node.kernel, given as unknown as NamedTensorMap, node.attrs as unknown as NamedAttrMap);
    return (Array.isArray(result) ? result : [result]) as Tensor[];
  } catch (error) {
    const place = [path, node.path].filter((part) => part !== '').join('.');
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError(
      `${placeName(place)}: ${node.kernel}(${inputs.map(signatureText).join(', ')}) failed on the tfjs backend ${tf.getBackend()}: ${reason}`,
      { path: place, cause: error },
    );
  }
}

function checkShape(node: GraphNode, output: Tensor, value: GraphValue, name: string): void {
  if (output.shape.length === value.shape.length && output.shape.every((dim, i) => dim === value.shape[i])) return;
  throw new EngineError(
    `${placeName(name)}: ${node.kernel} gave ${signatureText(output)} where the trace expected ${signatureText(value)}; this is a defect of the engine`,
  );
}
