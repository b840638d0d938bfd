import { bytesPerElement, sizeOf } from '../tensor/index.ts';
import { type Flops, partFlops, sumFlops } from './layer-cost.ts';
import { positionOf } from './mesh.ts';
import { paramsOfStage } from './placement.ts';
import type { Instruction, Program, Stage } from './program.ts';
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
  { summary, stages }: { readonly summary: ModelSummary; readonly stages: readonly Stage[] },
  machine: Machine = DEFAULT_MACHINE,
): StepCosts {
  const flops = (['train', 'evaluate'] as const).map((mode) =>
    stages.map((stage) =>
      stage.segments.map((segment) => sumFlops(segment.parts.map((part) => partFlops(summary, part, mode)))),
    ),
  );
  const outputs = stages.map((stage) => boundaryBytes(summary, stage));
  const kept = stages.map((stage) => residualBytes(summary, stage));
  const gradients = new Map<string, { readonly dense: number; readonly experts: number; readonly norms: number }>();
  const gradientBytes = (program: Program, stage: Stage) => {
    const { data } = positionOf(program.mesh, program.rank);
    const key = `${stage.index} ${data % program.mesh.expert}`;
    const known = gradients.get(key);
    if (known) return known;
    const all = paramsOfStage(summary, program.mesh, stage, data);
    const total = all.reduce((sum, { bytes }) => sum + bytes, 0);
    const dense = stage.layers.reduce(
      (sum, layer) => sum + (summary.layers[layer]?.params.reduce((s, { bytes }) => s + bytes, 0) ?? 0),
      0,
    );
    const state = stage.layers.reduce((sum, layer) => sum + (summary.layers[layer]?.stateBytes ?? 0), 0);
    const made = { dense: dense + state, experts: total - dense, norms: all.length * 4 };
    gradients.set(key, made);
    return made;
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
          // A dozen operations an element, bound by memory rather than arithmetic.
          const elements = i.stages.reduce((sum, index) => {
            const { dense, experts } = gradientBytes(program, stages[index] as Stage);
            return sum + (dense + experts) / 4;
          }, 0);
          return (12 * elements) / machine.flopsPerSecond;
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
        case 'AllReduce': {
          const members = program.groups[i.group]?.ranks.length ?? 1;
          const { dense, experts } = gradientBytes(program, stages[i.stage] as Stage);
          const bytes = { dense, experts, changes: dense + experts }[i.what];
          return (2 * (members - 1) * bytes) / members;
        }
        case 'AllGather': {
          const members = program.groups[i.group]?.ranks.length ?? 1;
          return program.stages.reduce((sum, stage) => sum + gradientBytes(program, stage).norms, 0) * (members - 1);
        }
        default:
          return 0;
      }
    },
  };
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
