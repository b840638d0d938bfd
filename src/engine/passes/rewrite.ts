import type { Shape } from '../../tensor/index.ts';
import type { Signature } from '../engine.ts';
import type { Graph, GraphConstant, GraphNode, GraphValue, ValueId } from '../graph.ts';
import { type Attrs, kernelDefinition } from '../trace/index.ts';
import { neededInOrder } from './order.ts';

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

/** Changes a graph in place: replaces nodes and values, or finds nothing to do. */
export type Pass = (rewrite: Rewrite) => void;

/**
 * A graph being changed by passes: nodes can be replaced and values stood in for by others. Its nodes are in topological order,
 * without what nothing needs, when a pass begins: `settle` sees to that between passes. `finish` gives the new graph.
 */
export class Rewrite {
  readonly #graph: Graph;
  readonly #values: Map<ValueId, GraphValue>;
  readonly #constants: Map<ValueId, GraphConstant['data']>;
  #outputs: readonly ValueId[];
  #nodes: GraphNode[] = [];
  /** Of the node that makes a value. */
  #places: (number | undefined)[] = [];
  #users: (GraphNode[] | undefined)[] = [];
  readonly #gone = new Set<GraphNode>();
  readonly #aliases = new Map<ValueId, ValueId>();
  #next = 0;
  /** Values from this one on were made since the last `settle`. */
  #settled = 0;
  #changes = 0;
  #changed = false;

  constructor(graph: Graph) {
    this.#graph = graph;
    this.#values = new Map(graph.values);
    this.#constants = new Map();
    for (const { id, data } of graph.constants) this.#constants.set(id, data);
    this.#outputs = graph.outputs;
    for (const id of graph.values.keys()) if (id >= this.#next) this.#next = id + 1;
    this.#sort(graph.nodes);
  }

  /** The nodes as they are now; a copy, so that it can be walked while the graph changes. */
  get nodes(): GraphNode[] {
    return this.#nodes.slice();
  }

  /** Grows whenever a pass changes something. */
  get changes(): number {
    return this.#changes;
  }

  get constants(): ReadonlyMap<ValueId, GraphConstant['data']> {
    return this.#constants;
  }

  /** Whether a node has been replaced. */
  isGone(node: GraphNode): boolean {
    return this.#gone.size > 0 && this.#gone.has(node);
  }

  /** Signature of a value, or of what it was replaced by. */
  signature(id: ValueId): GraphValue {
    return this.#values.get(this.resolve(id)) as GraphValue;
  }

  shape(id: ValueId): Shape {
    return this.signature(id).shape;
  }

  /** What a value was replaced by, or itself. */
  resolve(id: ValueId): ValueId {
    if (this.#aliases.size === 0) return id;
    let at = id;
    for (let next = this.#aliases.get(at); next !== undefined; next = this.#aliases.get(at)) at = next;
    return at;
  }

  /** The node that makes a value; undefined for inputs and constants. */
  producer(id: ValueId): GraphNode | undefined {
    const place = this.#places[this.resolve(id)];
    return place === undefined ? undefined : this.#nodes[place];
  }

  /** The producer, if it is of the given kernel. */
  producedBy(id: ValueId, kernel: string): GraphNode | undefined {
    const node = this.producer(id);
    return node?.kernel === kernel ? node : undefined;
  }

  /** How often nodes and outputs of the graph read a value. */
  useCount(id: ValueId): number {
    const at = this.resolve(id);
    return this.users(at).length + this.#outputs.filter((output) => this.resolve(output) === at).length;
  }

  /** Nodes that read a value, once for each time they do; nodes that nothing needs any more are among them. */
  users(id: ValueId): readonly GraphNode[] {
    return this.#users[this.resolve(id)] ?? [];
  }

  /** The number that a constant of one element holds, or that a Fill is full of. */
  scalarOf(id: ValueId): number | undefined {
    const at = this.resolve(id);
    const data = this.#constants.get(at);
    if (data !== undefined) return data.length === 1 ? data[0] : undefined;
    const fill = this.producedBy(at, 'Fill');
    return fill ? (fill.attrs.value as number) : undefined;
  }

  /** A new value. */
  value(signature: Signature): ValueId {
    const id = this.#next++;
    this.#values.set(id, { id, dtype: signature.dtype, shape: signature.shape });
    return id;
  }

  /** A new constant. */
  constant(data: GraphConstant['data'], signature: Signature): ValueId {
    const id = this.value(signature);
    this.#constants.set(id, data);
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
    this.#change();
    this.#add({ kernel, inputs, outputs, attrs: inferred.attrs ?? attrs, path, backward });
    return outputs;
  }

  /** Puts another node in the place of `old`; it makes the same values. */
  replaceNode(old: GraphNode, changes: Partial<Pick<GraphNode, 'kernel' | 'inputs' | 'attrs'>>): GraphNode {
    const place = this.#places[old.outputs[0] as ValueId] as number;
    this.#change();
    this.#gone.add(old);
    for (const input of old.inputs) {
      const users = this.#users[this.resolve(input)] as GraphNode[];
      users.splice(users.indexOf(old), 1);
    }
    return this.#add({ ...old, ...changes }, place);
  }

  /** From now on, whoever reads `id` reads `by`. */
  replaceValue(id: ValueId, by: ValueId): void {
    const [from, to] = [this.resolve(id), this.resolve(by)];
    if (from === to) throw new Error(`value ${id} cannot stand in for itself`);
    this.#change();
    this.#aliases.set(from, to);
    this.#users[to] = [...(this.#users[to] ?? []), ...(this.#users[from] ?? [])];
    this.#users[from] = undefined;
  }

  /** To be called when a pass is over. Where it changed nothing, there is nothing to do but forget values that it made in vain. */
  settle(): void {
    if (this.#changed) this.#sort(this.#aliases.size === 0 ? this.#nodes : this.#nodes.map((node) => this.#read(node)));
    else
      for (let id = this.#settled; id < this.#next; id++) {
        this.#values.delete(id);
        this.#constants.delete(id);
      }
    this.#next = this.#settled;
  }

  /** The graph as the passes have made it. */
  finish(): Graph {
    this.settle();
    return {
      values: new Map(this.#values),
      inputs: this.#graph.inputs,
      constants: Array.from(this.#constants, ([id, data]) => ({ id, data })),
      nodes: this.nodes,
      outputs: this.#outputs,
    };
  }

  /** The node, reading what its inputs were replaced by. */
  #read(node: GraphNode): GraphNode {
    for (const id of node.inputs)
      if (this.#aliases.has(id)) return { ...node, inputs: node.inputs.map((input) => this.resolve(input)) };
    return node;
  }

  #change(): void {
    this.#changed = true;
    this.#changes++;
  }

  /** Begins anew with those of these nodes that are needed; they read no value that another stands in for. */
  #sort(nodes: readonly GraphNode[]): void {
    this.#outputs = this.#outputs.map((id) => this.resolve(id));
    const ordered = neededInOrder(nodes, this.#outputs, this.#next);
    this.#forget(ordered);
    this.#nodes = [];
    this.#aliases.clear();
    this.#gone.clear();
    this.#changed = false;
    this.#next = 0;
    for (const id of this.#values.keys()) if (id >= this.#next) this.#next = id + 1;
    this.#settled = this.#next;
    this.#places = new Array(this.#next);
    this.#users = new Array(this.#next);
    for (const node of ordered) this.#add(node);
  }

  /** Forgets all values that neither these nodes nor whoever runs the graph reads or writes. */
  #forget(nodes: readonly GraphNode[]): void {
    const used = new Uint8Array(this.#next);
    const use = (ids: readonly ValueId[]) => {
      for (let i = 0; i < ids.length; i++) used[ids[i] as ValueId] = 1;
    };
    use(this.#graph.inputs);
    use(this.#outputs);
    for (const node of nodes) {
      use(node.inputs);
      use(node.outputs);
    }
    for (const id of this.#values.keys()) if (used[id] === 0) this.#values.delete(id);
    for (const id of this.#constants.keys()) if (used[id] === 0) this.#constants.delete(id);
  }

  #add(node: GraphNode, place = this.#nodes.length): GraphNode {
    this.#nodes[place] = node;
    for (const output of node.outputs) this.#places[output] = place;
    for (const input of node.inputs) {
      const at = this.resolve(input);
      const users = this.#users[at];
      if (users) users.push(node);
      else this.#users[at] = [node];
    }
    return node;
  }
}

/** A pass by itself, over a graph. */
export function applied(graph: Graph, pass: Pass): Graph {
  const rewrite = new Rewrite(graph);
  pass(rewrite);
  return rewrite.finish();
}

/** Drops nodes, constants and values that no output depends on. Expert calls always stay: they have effects. */
export function deadCode(graph: Graph): Graph {
  return new Rewrite(graph).finish();
}
