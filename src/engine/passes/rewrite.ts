import type { Shape } from '../../tensor/index.ts';
import type { Signature } from '../engine.ts';
import type { Graph, GraphConstant, GraphNode, GraphValue, ValueId } from '../graph.ts';
import { type Attrs, isBoundary, kernelDefinition } from '../trace/index.ts';

/** Kernels whose output element depends on the input elements of the same place only, and which broadcast. */
export const ELEMENTWISE: ReadonlySet<string> = new Set([
  'Add',
  'Atan2',
  'BitwiseAnd',
  'Equal',
  'FloorDiv',
  'Greater',
  'GreaterEqual',
  'Less',
  'LessEqual',
  'LogicalAnd',
  'LogicalOr',
  'Maximum',
  'Minimum',
  'Mod',
  'Multiply',
  'NotEqual',
  'Pow',
  'RealDiv',
  'Select',
  'Sub',
]);

/**
 * A graph being changed by a pass: nodes can be replaced and values stood in for by others. `finish` gives the new graph
 * in topological order, without what nothing needs any more.
 */
export class Rewrite {
  readonly values: Map<ValueId, GraphValue>;
  readonly constants: Map<ValueId, GraphConstant['data']>;
  readonly #graph: Graph;
  readonly #nodes: GraphNode[] = [];
  readonly #places = new Map<GraphNode, number>();
  readonly #aliases = new Map<ValueId, ValueId>();
  readonly #producers = new Map<ValueId, GraphNode>();
  readonly #users = new Map<ValueId, GraphNode[]>();
  #next: number;

  constructor(graph: Graph) {
    this.#graph = graph;
    this.values = new Map(graph.values);
    this.constants = new Map(graph.constants.map(({ id, data }) => [id, data]));
    this.#next = 0;
    for (const id of graph.values.keys()) this.#next = Math.max(this.#next, id + 1);
    for (const node of graph.nodes) this.#add(node);
  }

  /** The nodes as they are now; a copy, so that it can be walked while the graph changes. */
  get nodes(): GraphNode[] {
    return [...this.#nodes];
  }

  /** Whether a node has been replaced. */
  isGone(node: GraphNode): boolean {
    return !this.#places.has(node);
  }

  /** Signature of a value, or of what it was replaced by. */
  signature(id: ValueId): GraphValue {
    return this.values.get(this.resolve(id)) as GraphValue;
  }

  shape(id: ValueId): Shape {
    return this.signature(id).shape;
  }

  /** What a value was replaced by, or itself. */
  resolve(id: ValueId): ValueId {
    let at = id;
    for (let next = this.#aliases.get(at); next !== undefined; next = this.#aliases.get(at)) at = next;
    return at;
  }

  /** The node that makes a value; undefined for inputs and constants. */
  producer(id: ValueId): GraphNode | undefined {
    return this.#producers.get(this.resolve(id));
  }

  /** The producer, if it is of the given kernel. */
  producedBy(id: ValueId, kernel: string): GraphNode | undefined {
    const node = this.producer(id);
    return node?.kernel === kernel ? node : undefined;
  }

  /** How often nodes and outputs of the graph read a value. */
  useCount(id: ValueId): number {
    const at = this.resolve(id);
    return this.users(at).length + this.#graph.outputs.filter((output) => this.resolve(output) === at).length;
  }

  /** Nodes that read a value, once for each time they do; nodes that nothing needs any more are among them. */
  users(id: ValueId): readonly GraphNode[] {
    return this.#users.get(this.resolve(id)) ?? [];
  }

  /** The number that a constant of one element holds, or that a Fill is full of. */
  scalarOf(id: ValueId): number | undefined {
    const at = this.resolve(id);
    const data = this.constants.get(at);
    if (data !== undefined) return data.length === 1 ? data[0] : undefined;
    const fill = this.producedBy(at, 'Fill');
    return fill ? (fill.attrs.value as number) : undefined;
  }

  /** A new value. */
  value(signature: Signature): ValueId {
    const id = this.#next++;
    this.values.set(id, { id, dtype: signature.dtype, shape: signature.shape });
    return id;
  }

  /** A new constant. */
  constant(data: GraphConstant['data'], signature: Signature): ValueId {
    const id = this.value(signature);
    this.constants.set(id, data);
    return id;
  }

  /** A new node beside `like` (same path and direction), its outputs inferred; it stands before all nodes after `like`. */
  insert(like: GraphNode, kernel: string, inputs: readonly ValueId[], attrs: Attrs = {}): ValueId[] {
    const definition = kernelDefinition(kernel);
    if (definition === undefined) throw new Error(`unknown kernel ${kernel}`);
    const inferred = definition.infer(
      inputs.map((id) => this.signature(this.resolve(id))),
      attrs,
    );
    const outputs = inferred.outputs.map((signature) => this.value(signature));
    const { path, backward } = like;
    this.#add({ kernel, inputs, outputs, attrs: inferred.attrs ?? attrs, path, backward });
    return outputs;
  }

  /** Puts another node in the place of `old`; it makes the same values. */
  replaceNode(old: GraphNode, changes: Partial<Pick<GraphNode, 'kernel' | 'inputs' | 'attrs'>>): GraphNode {
    const place = this.#places.get(old) as number;
    this.#places.delete(old);
    for (const input of old.inputs) {
      const users = this.#users.get(this.resolve(input)) as GraphNode[];
      users.splice(users.indexOf(old), 1);
    }
    return this.#add({ ...old, ...changes }, place);
  }

  /** From now on, whoever reads `id` reads `by`. */
  replaceValue(id: ValueId, by: ValueId): void {
    if (this.resolve(by) === this.resolve(id)) throw new Error(`value ${id} cannot stand in for itself`);
    const [from, to] = [this.resolve(id), this.resolve(by)];
    this.#aliases.set(from, to);
    this.#users.set(to, [...(this.#users.get(to) ?? []), ...(this.#users.get(from) ?? [])]);
    this.#users.delete(from);
  }

  finish(): Graph {
    return sorted({
      values: this.values,
      inputs: this.#graph.inputs,
      constants: [...this.constants].map(([id, data]) => ({ id, data })),
      nodes: this.#nodes.map((node) => ({ ...node, inputs: node.inputs.map((id) => this.resolve(id)) })),
      outputs: this.#graph.outputs.map((id) => this.resolve(id)),
    });
  }

  #add(node: GraphNode, place = this.#nodes.length): GraphNode {
    this.#nodes[place] = node;
    this.#places.set(node, place);
    for (const output of node.outputs) this.#producers.set(output, node);
    for (const input of node.inputs) {
      const at = this.resolve(input);
      const users = this.#users.get(at);
      if (users) users.push(node);
      else this.#users.set(at, [node]);
    }
    return node;
  }
}

/** Nodes, values and constants that the outputs (and expert calls) need, in topological order, otherwise as recorded. */
function sorted(graph: Graph): Graph {
  const producers = new Map<ValueId, GraphNode>();
  for (const node of graph.nodes) for (const output of node.outputs) producers.set(output, node);
  const done = new Set<GraphNode>();
  const needed = new Set<GraphNode>();
  const mark = (roots: readonly ValueId[]) => {
    const stack = [...roots];
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      const node = producers.get(id);
      if (node === undefined || needed.has(node)) continue;
      needed.add(node);
      stack.push(...node.inputs);
    }
  };
  mark(graph.outputs);
  for (const node of graph.nodes)
    if (isBoundary(node)) {
      needed.add(node);
      mark(node.inputs);
    }
  const nodes: GraphNode[] = [];
  for (const root of graph.nodes) {
    if (!needed.has(root)) continue;
    // Iterative depth-first order: graphs of unrolled loops are deep.
    const stack: { readonly node: GraphNode; next: number }[] = [{ node: root, next: 0 }];
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      if (done.has(top.node)) {
        stack.pop();
        continue;
      }
      const id = top.node.inputs[top.next++];
      if (id === undefined) {
        done.add(top.node);
        nodes.push(top.node);
        stack.pop();
        continue;
      }
      const producer = producers.get(id);
      if (producer !== undefined && !done.has(producer)) stack.push({ node: producer, next: 0 });
    }
  }
  const used = new Set<ValueId>([...graph.inputs, ...graph.outputs]);
  for (const node of nodes) for (const id of [...node.inputs, ...node.outputs]) used.add(id);
  return {
    values: new Map([...graph.values].filter(([id]) => used.has(id))),
    inputs: graph.inputs,
    constants: graph.constants.filter(({ id }) => used.has(id)),
    nodes,
    outputs: graph.outputs,
  };
}

/** Drops nodes, constants and values that no output depends on. Expert calls always stay: they have effects. */
export function deadCode(graph: Graph): Graph {
  return sorted(graph);
}
