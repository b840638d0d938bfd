import type { Phase, VjpOptions } from '../engine.ts';
import type { Graph, GraphConstant, GraphNode, ValueId } from '../graph.ts';
import { isBoundary, type VjpTrace } from '../trace/index.ts';
import { optimize } from './optimize.ts';
import { type Draft, finishPhases, type PhasedGraphs } from './phase-graphs.ts';
import { chooseResiduals, isCheap, mayRecompute } from './remat.ts';

/** Runs the passes over a traced vector-Jacobian product. */
export function optimizeVjp(vjp: VjpTrace): VjpTrace {
  const graph = optimize(vjp.graph);
  const outputs = graph.outputs.slice(0, vjp.outputs.length);
  let next = vjp.outputs.length;
  const gradients = vjp.gradients.map((id) => (id === null ? null : (graph.outputs[next++] as ValueId)));
  const used = new Set<ValueId>([...graph.nodes.flatMap((node) => node.inputs), ...graph.outputs]);
  const cotangents = vjp.cotangents.map((id) => (id !== null && used.has(id) ? id : null));
  return { graph, inputs: vjp.inputs, outputs, cotangents, gradients };
}

type PartitionOptions = Pick<VjpOptions, 'remat' | 'splitWeight' | 'fused'>;

/** Cuts a traced function into phases. The nodes stay what they are: cutting changes no bits. */
export function partition(vjp: VjpTrace, options: PartitionOptions): PhasedGraphs {
  return new Partition(vjp, options).cut();
}

class Partition {
  readonly #vjp: VjpTrace;
  readonly #graph: Graph;
  readonly #options: PartitionOptions;
  readonly #producers = new Map<ValueId, GraphNode>();
  readonly #constants: ReadonlyMap<ValueId, GraphConstant>;
  /** Values that the caller puts into slots. */
  readonly #given: ReadonlySet<ValueId>;
  readonly #forward: ReadonlySet<GraphNode>;
  /** Phase of each node that has one; what is recomputed wherever it is needed has none. */
  readonly #home = new Map<GraphNode, number>();
  readonly #drafts: Draft[] = [];
  /** Index of the first phase with gradients; the last forward phase where both are fused. */
  readonly #base: number;
  readonly #forwardCalls: readonly GraphNode[];
  readonly #backwardCalls: readonly GraphNode[];
  #kept: ReadonlySet<ValueId> = new Set();

  constructor(vjp: VjpTrace, options: PartitionOptions) {
    this.#vjp = vjp;
    this.#graph = vjp.graph;
    this.#options = options;
    for (const node of this.#graph.nodes) for (const id of node.outputs) this.#producers.set(id, node);
    this.#constants = new Map(this.#graph.constants.map((constant) => [constant.id, constant]));
    this.#given = new Set(this.#graph.inputs);
    this.#forwardCalls = this.#graph.nodes.filter((node) => node.kernel === 'PlexusExperts');
    this.#backwardCalls = this.#graph.nodes.filter((node) => node.kernel === 'PlexusExpertsGrad');
    this.#forward = this.#ancestors([...vjp.outputs, ...this.#forwardCalls.flatMap((call) => call.outputs)]);
    this.#base = options.fused === true ? this.#forwardCalls.length : this.#forwardCalls.length + 1;
  }

  cut(): PhasedGraphs {
    this.#placeForward();
    this.#placeBackward();
    this.#kept = this.#choose();
    for (let phase = 0; phase < this.#drafts.length; phase++) this.#fill(phase);
    while (this.#drafts.length > 1 && isEmpty(this.#drafts.at(-1) as Draft)) this.#drafts.pop();
    return finishPhases(this.#vjp, this.#drafts);
  }

  #ancestors(roots: readonly ValueId[]): Set<GraphNode> {
    const found = new Set<GraphNode>();
    const stack = [...roots];
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      const node = this.#producers.get(id);
      if (node === undefined || found.has(node)) continue;
      found.add(node);
      stack.push(...node.inputs);
    }
    return found;
  }

  #draft(phase: number, kind: Phase['kind']): Draft {
    while (this.#drafts.length <= phase)
      this.#drafts.push({ kind, nodes: new Set(), reads: new Set(), writes: new Set(), constants: new Set() });
    return this.#drafts[phase] as Draft;
  }

  /** Makes a phase end in an expert call. */
  #end(phase: number, call: GraphNode): void {
    const [rows, counts] = call.inputs as [ValueId, ValueId];
    const { path, experts } = call.attrs as { path: string; experts: number };
    (this.#drafts[phase] as Draft).call = { path, experts, rows, counts, result: call.outputs[0] as ValueId };
  }

  /** Phases of nodes: the latest of their inputs'; the result of the n-th call is there in the n-th phase after it. */
  #assign(nodes: readonly GraphNode[], base: number): void {
    let calls = 0;
    for (const node of nodes) {
      if (isFree(node)) continue;
      let phase = base;
      for (const id of node.inputs) phase = Math.max(phase, this.#homeOf(id) ?? 0);
      this.#home.set(node, isBoundary(node) ? base + ++calls : phase);
    }
  }

  #homeOf(id: ValueId): number | undefined {
    const node = this.#producers.get(id);
    return node === undefined ? undefined : this.#home.get(node);
  }

  #placeForward(): void {
    this.#draft(this.#forwardCalls.length, 'forward');
    this.#assign(
      this.#graph.nodes.filter((node) => this.#forward.has(node)),
      0,
    );
    this.#forwardCalls.forEach((call, i) => {
      this.#end(i, call);
    });
  }

  #placeBackward(): void {
    const backward = this.#graph.nodes.filter((node) => !this.#forward.has(node));
    const written = this.#vjp.gradients.some((id) => id !== null && !this.#given.has(id));
    if (backward.length === 0 && !written) return;
    const kind = this.#options.fused === true ? 'forward' : 'backward';
    this.#draft(this.#base + this.#backwardCalls.length, kind);
    const late = this.#independent(backward);
    this.#assign(
      backward.filter((node) => !late.has(node)),
      this.#base,
    );
    this.#backwardCalls.forEach((call, i) => {
      this.#end(this.#base + i, call);
    });
    const weights = this.#options.fused === true ? new Set<GraphNode>() : this.#weightNodes(backward);
    const last = this.#drafts.length;
    for (const node of weights) if (this.#home.has(node)) this.#home.set(node, last);
    if (weights.size > 0) this.#draft(last, 'backward-weight');
    this.#placeLate(late);
  }

  /** Nodes that the gradient recorded but that no cotangent reaches: functions of the forward alone. */
  #independent(backward: readonly GraphNode[]): Set<GraphNode> {
    const reached = new Set(this.#vjp.cotangents.filter((id) => id !== null));
    const independent = new Set<GraphNode>();
    for (const node of backward) {
      if (isBoundary(node) || node.inputs.some((id) => reached.has(id))) for (const id of node.outputs) reached.add(id);
      else independent.add(node);
    }
    return independent;
  }

  /** Such nodes are computed where they are first needed; cheap ones wherever they are needed, so they have no phase. */
  #placeLate(nodes: ReadonlySet<GraphNode>): void {
    const first = new Map<ValueId, number>();
    const need = (id: ValueId, phase: number) => first.set(id, Math.min(first.get(id) ?? phase, phase));
    for (const id of this.#vjp.gradients) if (id !== null) need(id, this.#base);
    for (const node of [...this.#graph.nodes].reverse()) {
      const late = nodes.has(node);
      const phase = late
        ? Math.min(...node.outputs.map((id) => first.get(id) ?? Number.POSITIVE_INFINITY))
        : this.#home.get(node);
      if (phase === undefined || !Number.isFinite(phase)) continue;
      if (late && !isCheap(node)) this.#home.set(node, phase);
      for (const id of node.inputs) need(id, phase - (isBoundary(node) ? 1 : 0));
    }
  }

  /** Nodes that only gradients of weights need. */
  #weightNodes(backward: readonly GraphNode[]): Set<GraphNode> {
    const split = this.#options.splitWeight;
    if (split === undefined) return new Set();
    const others = this.#vjp.gradients.filter((id, i) => id !== null && split[i] !== true) as ValueId[];
    const needed = this.#ancestors([...others, ...this.#backwardCalls.flatMap((call) => call.outputs)]);
    return new Set(backward.filter((node) => !needed.has(node)));
  }

  /** Whether a node's values may be computed again in a later phase instead of being kept. */
  #repeatable(node: GraphNode): boolean {
    if (!this.#forward.has(node)) return !this.#home.has(node);
    return mayRecompute(node, this.#options.remat);
  }

  #choose(): Set<ValueId> {
    const demanded = new Set<ValueId>();
    const read = (id: ValueId, phase: number) => {
      const producer = this.#producers.get(id);
      if (producer !== undefined && !isFree(producer) && this.#isEarlierForward(producer, phase)) demanded.add(id);
    };
    for (const [node, phase] of this.#home)
      if (!this.#forward.has(node)) for (const id of node.inputs) read(id, phase - (isBoundary(node) ? 1 : 0));
    for (const id of this.#vjp.gradients) {
      const producer = id === null ? undefined : this.#producers.get(id);
      if (id !== null && producer !== undefined && !this.#home.has(producer)) read(id, this.#base);
    }
    return chooseResiduals({
      graph: this.#graph,
      demanded,
      producer: (id) => {
        const node = this.#producers.get(id);
        return node !== undefined && isFree(node) ? undefined : node;
      },
      recomputable: (node) => this.#repeatable(node),
      keepable: (node) => this.#home.has(node),
    });
  }

  /** Whether a phase of the gradient gets a node's values from before, or from the forward alone. */
  #isEarlierForward(node: GraphNode, phase: number): boolean {
    const home = this.#home.get(node);
    return home === undefined || (this.#forward.has(node) && home !== phase);
  }

  /** Collects what a phase computes, reads and writes, starting from the nodes that live in it. */
  #fill(phase: number): void {
    const draft = this.#drafts[phase] as Draft;
    const roots: ValueId[] = [];
    for (const node of this.#graph.nodes)
      if (this.#home.get(node) === phase && !isBoundary(node)) {
        draft.nodes.add(node);
        roots.push(...node.inputs);
      }
    for (const id of this.#exports(phase)) {
      // A constant may be asked for by several calls: the first phase that writes it does.
      if (this.#given.has(id) || this.#drafts.slice(0, phase).some(({ writes }) => writes.has(id))) continue;
      draft.writes.add(id);
      roots.push(id);
    }
    for (let id = roots.pop(); id !== undefined; id = roots.pop()) this.#need(phase, draft, id, roots);
  }

  /** Values that leave a phase for the caller or for an expert call. */
  #exports(phase: number): ValueId[] {
    const { call } = this.#drafts[phase] as Draft;
    const here = (id: ValueId, otherwise: number) => (this.#homeOf(id) ?? otherwise) === phase;
    const isCallResult = (id: ValueId) =>
      this.#producers.get(id) !== undefined && isBoundary(this.#producers.get(id) as GraphNode);
    const outputs = this.#vjp.outputs.filter((id) => here(id, 0));
    const gradients = this.#vjp.gradients.filter((id): id is ValueId => id !== null && here(id, this.#base));
    const called = call === undefined ? [] : [call.rows, call.counts].filter((id) => this.#isMade(id, phase));
    return [...outputs, ...gradients, ...called].filter((id) => !isCallResult(id));
  }

  /** Whether a call's operand must be written by the phase that ends in the call, rather than by an earlier one. */
  #isMade(id: ValueId, phase: number): boolean {
    const home = this.#homeOf(id);
    if (home === phase) return true;
    if (home !== undefined && home < phase) {
      this.#export(id, home);
      return false;
    }
    return home === undefined && !this.#given.has(id);
  }

  /** Makes an earlier phase write a value, unless the caller or an expert call puts it into its slot. */
  #export(id: ValueId, phase: number): void {
    const producer = this.#producers.get(id);
    if (producer !== undefined && !isBoundary(producer)) (this.#drafts[phase] as Draft).writes.add(id);
  }

  #need(phase: number, draft: Draft, id: ValueId, roots: ValueId[]): void {
    if (this.#given.has(id)) {
      draft.reads.add(id);
      return;
    }
    if (this.#constants.has(id)) {
      draft.constants.add(id);
      return;
    }
    const node = this.#producers.get(id) as GraphNode;
    if (draft.nodes.has(node)) return;
    const home = this.#home.get(node);
    const again =
      isFree(node) ||
      (phase >= this.#base && this.#repeatable(node) && !this.#kept.has(id) && !this.#readByForward(home, phase));
    if (!again && home !== undefined) {
      draft.reads.add(id);
      this.#export(id, home);
      return;
    }
    const before = isCheap(node) ? undefined : this.#earlierCopy(node, phase);
    if (before !== undefined) {
      draft.reads.add(id);
      (this.#drafts[before] as Draft).writes.add(id);
      return;
    }
    draft.nodes.add(node);
    roots.push(...node.inputs);
  }

  /** In a fused function, the phase with the last of the forward reads what earlier phases made. */
  #readByForward(home: number | undefined, phase: number): boolean {
    return this.#options.fused === true && phase === this.#base && home !== undefined;
  }

  /** A backward phase before this one that computes a node again: expensive ones are not recomputed twice. */
  #earlierCopy(node: GraphNode, phase: number): number | undefined {
    for (let earlier = this.#base; earlier < phase; earlier++)
      if (this.#drafts[earlier]?.nodes.has(node)) return earlier;
    return undefined;
  }
}

/** Nodes without inputs cost nothing: every phase that needs one has its own. */
function isFree(node: GraphNode): boolean {
  return node.inputs.length === 0;
}

function isEmpty(draft: Draft): boolean {
  return draft.kind !== 'forward' && draft.writes.size === 0 && draft.call === undefined;
}
