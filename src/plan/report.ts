import type { Plan } from './compile.ts';
import { type Machine, modelCosts, type StepCosts } from './costs.ts';
import { type Flops, stageFlops } from './layer-cost.ts';
import { type MeshPosition, positionOf } from './mesh.ts';
import { paramsOfRank } from './placement.ts';
import { optimizerShares } from './shards.ts';
import { type Simulation, simulate } from './simulate.ts';

/** What a plan says about one stage. FLOPs are for one microbatch. */
export interface StageReport {
  readonly stage: number;
  readonly pipelineRank: number;
  readonly layers: readonly string[];
  readonly flops: Flops;
  /** Share of the whole model's FLOPs. */
  readonly share: number;
}

/** What a plan says about one rank. Bytes. */
export interface RankReport {
  readonly rank: number;
  readonly position: MeshPosition;
  readonly stages: readonly number[];
  readonly microbatches: number;
  readonly paramBytes: number;
  /** Optimizer state: of the parameters that the rank owns where it is sharded, else of all that it holds. */
  readonly optimizerBytes: number;
  /** Partial sums of gradients in the canonical tree, each as large as the parameters: log2 of the share, and one more. */
  readonly gradientBytes: number;
  /** Estimated from the trace; at the moment when most is held. */
  readonly activationBytes: number;
  /** Most microbatches (times stages) held at once. */
  readonly inFlight: number;
  /** Messages and bytes that the rank sends in a step, collectives included. */
  readonly messages: number;
  readonly bytes: number;
  /** Share of the step that the rank computes. */
  readonly utilisation: number;
}

/** Everything that `plexus plan` shows, as data. */
export interface PlanReport {
  readonly stages: readonly StageReport[];
  readonly ranks: readonly RankReport[];
  /** A step in virtual time on the assumed machine. */
  readonly simulation: Simulation;
  /** The share of time that the schedule alone leaves idle (communication free). */
  readonly bubble: number;
  readonly messages: number;
  readonly bytes: number;
}

/** Measures a plan: what each rank holds and sends, and how a step would go. O(instructions). */
export function planReport(
  plan: Plan,
  options: { readonly machine?: Machine; readonly timeline?: boolean } = {},
): PlanReport {
  const { summary, mesh, stages, programs } = plan;
  const costs = modelCosts(plan, options.machine);
  const simulation = simulate(programs, costs, { timeline: options.timeline ?? false });
  const flops = stages.map((stage) => stageFlops(summary, stage));
  const total = flops.reduce((sum, { forward, backward }) => sum + forward + backward, 0);
  const optimizer = optimizerShares(summary, plan);
  const known = new Map<string, number>();
  const paramBytes = (rank: number): number => {
    const { data, pipeline } = positionOf(mesh, rank);
    const key = `${pipeline} ${data % mesh.expert}`;
    const bytes = known.get(key) ?? paramsOfRank(summary, plan, rank).reduce((sum, param) => sum + param.bytes, 0);
    known.set(key, bytes);
    return bytes;
  };
  const ranks = programs.map(({ rank, share, stages: own }): RankReport => {
    const times = simulation.ranks[rank];
    const params = paramBytes(rank);
    const microbatches = share.end - share.start;
    return {
      rank,
      position: positionOf(mesh, rank),
      stages: own.map(({ index }) => index),
      microbatches,
      paramBytes: params,
      optimizerBytes: optimizer(rank).optimizerBytes,
      gradientBytes: params * (Math.floor(Math.log2(microbatches)) + 1),
      activationBytes: times?.peakActivationBytes ?? 0,
      inFlight: times?.peakMicrobatches ?? 0,
      messages: times?.messages ?? 0,
      bytes: times?.bytes ?? 0,
      utilisation: simulation.seconds > 0 ? (times?.busy ?? 0) / simulation.seconds : 0,
    };
  });
  return {
    stages: stages.map((stage, i) => {
      const own = flops[i] as Flops;
      return {
        stage: stage.index,
        pipelineRank: stage.pipelineRank,
        layers: stage.layers.map((layer) => summary.layers[layer]?.name ?? ''),
        flops: own,
        share: total > 0 ? (own.forward + own.backward) / total : 0,
      };
    }),
    ranks,
    simulation,
    bubble: simulate(programs, silent(costs)).bubble,
    messages: ranks.reduce((sum, { messages }) => sum + messages, 0),
    bytes: ranks.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

/** The same work with communication free. */
function silent(costs: StepCosts): StepCosts {
  return { ...costs, bytesPerSecond: Number.POSITIVE_INFINITY, latencySeconds: 0 };
}
