import { byteLengthOf } from '../../tensor/index.ts';
import type { ExpertCall, Phase, SlotId } from '../engine.ts';
import type { Graph, GraphNode, GraphValue, ValueId } from '../graph.ts';
import type { VjpTrace } from '../trace/index.ts';

/** A phase before it is compiled. Slots are the value ids of the graph that was cut. */
export interface PhaseGraph {
  readonly kind: Phase['kind'];
  /** Inputs are what the phase reads, outputs what it writes. */
  readonly graph: Graph;
  readonly frees: readonly SlotId[];
  readonly call?: ExpertCall;
}

/** A differentiable function cut into graphs; see `PhasedFunction`. */
export interface PhasedGraphs {
  readonly phases: readonly PhaseGraph[];
  readonly inputs: readonly SlotId[];
  readonly outputs: readonly SlotId[];
  readonly cotangents: readonly (SlotId | null)[];
  readonly gradients: readonly (SlotId | null)[];
  readonly values: ReadonlyMap<SlotId, GraphValue>;
  readonly residualBytes: number;
}

/** A phase while a function is being cut. */
export interface Draft {
  readonly kind: Phase['kind'];
  /** Nodes that belong here, and copies of nodes that are computed here again. */
  readonly nodes: Set<GraphNode>;
  /** Slots. */
  readonly reads: Set<ValueId>;
  readonly writes: Set<ValueId>;
  readonly constants: Set<ValueId>;
  call?: ExpertCall;
}

/** Makes the graphs of all phases, and says what is kept between them and for how long. */
export function finishPhases(vjp: VjpTrace, drafts: readonly Draft[]): PhasedGraphs {
  const slots = new Set<ValueId>(vjp.inputs);
  for (const { reads, writes, call } of drafts)
    for (const id of [...reads, ...writes, ...(call ? [call.rows, call.counts, call.result] : [])]) slots.add(id);
  for (const id of [...vjp.outputs, ...vjp.cotangents, ...vjp.gradients]) if (id !== null) slots.add(id);
  const frees = freedAfter(vjp, drafts);
  return {
    phases: drafts.map((draft, i) => ({
      kind: draft.kind,
      graph: phaseGraph(vjp.graph, draft),
      frees: frees[i] as ValueId[],
      ...(draft.call === undefined ? {} : { call: draft.call }),
    })),
    inputs: vjp.inputs,
    outputs: vjp.outputs,
    cotangents: vjp.cotangents,
    gradients: vjp.gradients,
    values: new Map([...slots].map((id) => [id, vjp.graph.values.get(id) as GraphValue])),
    residualBytes: residualBytes(vjp.graph, drafts),
  };
}

function phaseGraph(graph: Graph, draft: Draft): Graph {
  const nodes = graph.nodes.filter((node) => draft.nodes.has(node));
  const constants = graph.constants.filter(({ id }) => draft.constants.has(id));
  const used = [...draft.reads, ...draft.writes, ...draft.constants, ...nodes.flatMap((node) => node.outputs)];
  return {
    values: new Map(used.map((id) => [id, graph.values.get(id) as GraphValue])),
    inputs: [...draft.reads],
    constants,
    nodes,
    outputs: [...draft.writes],
  };
}

/** Slots to free after each phase. A call reads its operands after its own phase, so before the next one has run. */
function freedAfter(vjp: VjpTrace, drafts: readonly Draft[]): ValueId[][] {
  const last = new Map<ValueId, number>();
  drafts.forEach(({ reads, writes, call }, phase) => {
    for (const id of [...writes, ...reads]) last.set(id, phase);
    // After the last phase nobody frees: what its call reads and writes is the caller's.
    for (const id of call ? [call.rows, call.counts, call.result] : [])
      if (phase + 1 < drafts.length) last.set(id, phase + 1);
      else last.delete(id);
  });
  for (const id of [...vjp.graph.inputs, ...vjp.outputs, ...vjp.gradients]) if (id !== null) last.delete(id);
  return drafts.map((_, phase) => [...last].flatMap(([id, at]) => (at === phase ? [id] : [])));
}

/** Bytes that forward phases make and later ones read. */
function residualBytes(graph: Graph, drafts: readonly Draft[]): number {
  const made = new Set<ValueId>();
  const kept = new Set<ValueId>();
  for (const { kind, reads, writes, call } of drafts) {
    if (kind === 'forward') {
      for (const id of writes) made.add(id);
      if (call) made.add(call.result);
    } else for (const id of reads) if (made.has(id)) kept.add(id);
  }
  let bytes = 0;
  for (const id of kept) bytes += byteLengthOf(graph.values.get(id) as GraphValue);
  return bytes;
}
