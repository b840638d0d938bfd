import { bytesPerElement, sizeOf } from '../tensor/index.ts';
import { type Flops, partFlops, sumFlops } from './layer-cost.ts';
import { type MeshShape, positionOf } from './mesh.ts';
import { expertMember, expertPosition, type Placed, paramsOfRank } from './placement.ts';
import type { Instruction, Program, ReducedKind, Stage } from './program.ts';
import { optimizerShares } from './shards.ts';
import type { ModelSummary } from './summary.ts';

/** How fast ranks compute and talk. */
export interface Machine {
  /** Floating-point operations a second that one rank sustains. */
  readonly flopsPerSecond: number;
  /** Bytes a second between two ranks. */
  readonly bytesPerSecond: number;
  /** Seconds from a send to its arrival, the transfer of bytes not counted. */
  readonly latencySeconds: number;
}

/** One core of a server CPU per rank, ranks in one process: what the project's own measurements found. */
export const DEFAULT_MACHINE: Machine = { flopsPerSecond: 75e9, bytesPerSecond: 4e9, latencySeconds: 30e-6 };

/** What instructions cost. The simulator asks for each instruction once, so answers should be table look-ups. */
export interface StepCosts {
  /** Seconds of computing. */
  seconds(instruction: Instruction, program: Program): number;
  /** Bytes that a rank puts on the wire for a communication instruction. */
  bytes(instruction: Instruction, program: Program): number;
  /** Bytes kept of one microbatch on a stage, from its forward to the end of its backward. */
  activationBytes(stage: number): number;
  readonly bytesPerSecond: number;
  readonly latencySeconds: number;
}

/** Costs of a model's programs from its traced FLOPs and bytes. */
export function modelCosts(
  { summary, stages, mesh, zero }: Placed & { readonly summary: ModelSummary; readonly zero: 0 | 1 },
  machine: Machine = DEFAULT_MACHINE,
): StepCosts {
  const flops = (['train', 'evaluate'] as const).map((mode) =>
    stages.map((stage) =>
      stage.segments.map((segment) => sumFlops(segment.parts.map((part) => partFlops(summary, part, mode)))),
    ),
  );
  const outputs = stages.map((stage) => boundaryBytes(summary, stage));
  const kept = stages.map((stage) => residualBytes(summary, stage));
  const shares = optimizerShares(summary, { mesh, stages, zero });
  const reduced = new Map<string, number>();
  /** Bytes that a rank reduces of layers: gradients and state contributions. */
  const reducedBytes = (program: Program, what: ReducedKind, layers: readonly number[]): number => {
    const { member } = expertPosition(program.mesh, positionOf(program.mesh, program.rank).data);
    return layers.reduce((sum, layer) => {
      const key = `${what} ${layer} ${what === 'experts' ? member : 0}`;
      const bytes = reduced.get(key) ?? layerBytes(summary, program.mesh, layer, what, member);
      reduced.set(key, bytes);
      return sum + bytes;
    }, 0);
  };
  /** Bytes of everything that local steps change. */
  const changedBytes = (program: Program, layers: readonly number[]): number =>
    reducedBytes(program, 'dense', layers) + reducedBytes(program, 'experts', layers);
  const normBytes = new Map<string, number>();
  /** Bytes of the squared norms of all that a rank holds. */
  const norms = (program: Program): number => {
    const { data, pipeline } = positionOf(program.mesh, program.rank);
    const key = `${pipeline} ${data % program.mesh.expert}`;
    const bytes = normBytes.get(key) ?? 4 * paramsOfRank(summary, { mesh, stages }, program.rank).length;
    normBytes.set(key, bytes);
    return bytes;
  };
  const of = (program: Program, stage: number, segment: number): Flops =>
    flops[program.mode === 'train' ? 0 : 1]?.[stage]?.[segment] ?? { forward: 0, backward: 0, backwardWeight: 0 };
  return {
    bytesPerSecond: machine.bytesPerSecond,
    latencySeconds: machine.latencySeconds,
    activationBytes: (stage) => kept[stage] ?? 0,
    seconds(i, program) {
      switch (i.op) {
        case 'Forward':
          return of(program, i.stage, i.segment).forward / machine.flopsPerSecond;
        case 'Backward':
          return of(program, i.stage, i.segment).backward / machine.flopsPerSecond;
        case 'BackwardInput': {
          const { backward, backwardWeight } = of(program, i.stage, i.segment);
          return (backward - backwardWeight) / machine.flopsPerSecond;
        }
        case 'BackwardWeight':
          return sumFlops(flops[0]?.[i.stage] ?? []).backwardWeight / machine.flopsPerSecond;
        case 'Optimize': {
          // A dozen operations an element, bound by memory rather than arithmetic. (A rank optimizes all its stages at once.)
          return (12 * shares(program.rank).updatedBytes) / 4 / machine.flopsPerSecond;
        }
        default:
          return 0;
      }
    },
    bytes(i, program) {
      switch (i.op) {
        case 'Send':
          return outputs[i.what === 'activation' ? i.stage : i.stage - 1] ?? 0;
        case 'AllToAll': {
          const part = stages[i.stage]?.segments[i.segment]?.parts[0];
          const call = part?.kind === 'experts' ? summary.layers[part.layer]?.expertCalls[part.call] : undefined;
          return call ? (call.rows * call.width * 4 * (program.mesh.expert - 1)) / program.mesh.expert : 0;
        }
        case 'AllReduce':
        case 'ReduceScatter': {
          const members = program.groups[i.group]?.ranks.length ?? 1;
          if (i.what === 'changes') return (2 * changedBytes(program, i.layers) * (members - 1)) / members;
          const bytes = (reducedBytes(program, i.what, i.layers) * (members - 1)) / members;
          return i.op === 'AllReduce' ? 2 * bytes : bytes;
        }
        case 'AllGather': {
          const members = program.groups[i.group]?.ranks.length ?? 1;
          if (i.what === 'norms') return norms(program) * (members - 1);
          return (reducedBytes(program, i.of, i.layers) * (members - 1)) / members;
        }
        default:
          return 0;
      }
    },
  };
}

function layerBytes(summary: ModelSummary, mesh: MeshShape, index: number, what: ReducedKind, member: number): number {
  const layer = summary.layers[index];
  if (!layer) return 0;
  if (what === 'dense') return layer.params.reduce((sum, { bytes }) => sum + bytes, layer.stateBytes);
  return layer.expertCalls
    .flatMap((call) => call.experts.filter((_, e) => expertMember(e, call.experts.length, mesh.expert) === member))
    .reduce((sum, params) => sum + params.reduce((bytes, param) => bytes + param.bytes, 0), 0);
}

/** Seconds of each kind of work on every stage: for reasoning about schedules apart from a model. */
export interface UniformCosts {
  readonly forward: number;
  readonly backwardInput: number;
  readonly backwardWeight: number;
  readonly bytesPerMessage?: number;
  readonly bytesPerSecond?: number;
  readonly latencySeconds?: number;
}

/** Costs that are the same on every stage (spread over the segments of a stage). Communication is free by default. */
export function uniformCosts(costs: UniformCosts): StepCosts {
  const segments = (program: Program, stage: number) =>
    program.stages.find(({ index }) => index === stage)?.segments.length ?? 1;
  return {
    bytesPerSecond: costs.bytesPerSecond ?? Number.POSITIVE_INFINITY,
    latencySeconds: costs.latencySeconds ?? 0,
    activationBytes: () => 1,
    seconds(i, program) {
      if (i.op === 'Forward') return costs.forward / segments(program, i.stage);
      if (i.op === 'Backward') return (costs.backwardInput + costs.backwardWeight) / segments(program, i.stage);
      if (i.op === 'BackwardInput') return costs.backwardInput / segments(program, i.stage);
      return i.op === 'BackwardWeight' ? costs.backwardWeight : 0;
    },
    bytes: (i) => (i.op === 'Send' ? (costs.bytesPerMessage ?? 0) : 0),
  };
}

/** Bytes that a stage passes on for one microbatch. */
export function boundaryBytes(summary: ModelSummary, stage: Stage): number {
  const last = summary.layers[stage.layers[stage.layers.length - 1] as number];
  return last?.outputs.reduce((sum, { dtype, shape }) => sum + sizeOf(shape) * bytesPerElement(dtype), 0) ?? 0;
}

/** Bytes that a stage keeps of one microbatch between forward and backward. */
export function residualBytes(summary: ModelSummary, stage: Stage): number {
  return stage.layers.reduce((sum, index) => {
    const layer = summary.layers[index];
    const experts = layer?.expertCalls.reduce((s, call) => s + call.rows * call.residualBytesPerRow, 0) ?? 0;
    return sum + (layer?.residualBytes ?? 0) + experts;
  }, 0);
}
