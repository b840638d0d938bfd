import type { Engine, ExpertCall, PhasedFunction, SlotId } from '../engine/index.ts';
import type { LayerFunction } from '../modules/index.ts';
import { forwardCalls, type PhasePlan, planPhases } from './phase-plan.ts';
import type { WorkerJob } from './protocol.ts';
import { rematFor } from './remat.ts';

/** What the compilation of a layer depends on besides its function. */
export interface LayerCompileOptions {
  readonly training: boolean;
  /** Whether gradients of the activations that go in are wanted: false for the model's first layer. */
  readonly first: boolean;
  /** Whether the layer ends in the loss: then forward and backward are one executable. */
  readonly last: boolean;
  readonly remat: WorkerJob['remat'];
  /** Whether parameter gradients are a phase of their own. */
  readonly splitWeight: boolean;
}

/** A layer function compiled for training or evaluation, with its slots by meaning. */
export interface CompiledLayer {
  readonly name: string;
  readonly fn: LayerFunction;
  readonly training: boolean;
  readonly plan: PhasePlan;
  readonly slots: LayerSlots;
  /** Expert calls of the forward, in order, and of the backward, in the same order (null where there is none). */
  readonly calls: readonly ExpertCall[];
  readonly backwardCalls: readonly (ExpertCall | null)[];
}

/** Slots of a layer function by what they are. */
export interface LayerSlots {
  readonly params: readonly SlotId[];
  readonly state: readonly SlotId[];
  readonly key: SlotId;
  readonly activations: readonly SlotId[];
  readonly targets: readonly SlotId[];
  readonly outputs: readonly SlotId[];
  readonly objectiveCotangent: SlotId | null;
  readonly outputCotangents: readonly (SlotId | null)[];
  readonly metrics: readonly SlotId[];
  readonly contributions: readonly SlotId[];
  readonly paramGradients: readonly (SlotId | null)[];
  readonly inputGradients: readonly (SlotId | null)[];
}

/** Compiles a layer. `activations` is the number of values that come from the layer before (or from the batch). */
export async function compileLayer(
  engine: Engine,
  fn: LayerFunction,
  activations: number,
  options: LayerCompileOptions,
): Promise<CompiledLayer> {
  const { training, first, last } = options;
  const paramCount = fn.params.length;
  const keyIndex = paramCount + fn.state.length;
  const wrt = fn.inputs.map(
    (signature, i) =>
      training &&
      (i < paramCount || (!first && i > keyIndex && i <= keyIndex + activations && signature.dtype === 'float32')),
  );
  const outputCount = fn.layout.objective + 1 + fn.layout.metrics.length + fn.layout.contributions.length;
  const differentiable = Array.from(
    { length: outputCount },
    (_, i) =>
      training &&
      (i === fn.layout.objective || (i < fn.layout.objective && fn.layout.activations[i]?.dtype === 'float32')),
  );
  const phased = await engine.vjp(fn.fn, fn.inputs, {
    name: fn.name,
    wrt,
    differentiable,
    remat: rematFor(options.remat, fn.name),
    ...(training && last ? { fused: true } : {}),
    ...(training && !last && options.splitWeight
      ? { splitWeight: wrt.map((wanted, i) => wanted && i < paramCount) }
      : {}),
  });
  const firstMetric = fn.layout.objective + 1;
  const firstContribution = firstMetric + fn.layout.metrics.length;
  const consumed = Array.from({ length: outputCount }, (_, i) => i).filter(
    (i) => i < fn.layout.objective || (i >= firstMetric && (training || i < firstContribution)),
  );
  const plan = planPhases(phased, fn.expertCalls.length, { outputs: consumed });
  const calls = forwardCalls(phased, fn.expertCalls.length);
  return {
    name: fn.name,
    fn,
    training,
    plan,
    slots: slotsOf(phased, fn, activations),
    calls,
    backwardCalls: training ? backwardCalls(plan, calls, fn) : [],
  };
}

function slotsOf(phased: PhasedFunction, fn: LayerFunction, activations: number): LayerSlots {
  const { inputs, outputs, cotangents, gradients } = phased;
  const params = fn.params.length;
  const key = params + fn.state.length;
  const firstTarget = key + 1 + activations;
  const metrics = fn.layout.objective + 1;
  const contributions = metrics + fn.layout.metrics.length;
  return {
    params: inputs.slice(0, params),
    state: inputs.slice(params, key),
    key: inputs[key] as SlotId,
    activations: inputs.slice(key + 1, firstTarget),
    targets: inputs.slice(firstTarget),
    outputs: outputs.slice(0, fn.layout.objective),
    objectiveCotangent: cotangents[fn.layout.objective] ?? null,
    outputCotangents: cotangents.slice(0, fn.layout.objective),
    metrics: outputs.slice(metrics, contributions),
    contributions: outputs.slice(contributions),
    paramGradients: gradients.slice(0, params),
    inputGradients: gradients.slice(key + 1, firstTarget),
  };
}

/** The call that serves the gradient of call c ends the backward of the forward phase after it. */
function backwardCalls(plan: PhasePlan, calls: readonly ExpertCall[], fn: LayerFunction): (ExpertCall | null)[] {
  return calls.map((call, c) => {
    const index = plan.backwardOf[c + 1] ?? (c + 1 === plan.forwards - 1 ? c + 1 : null);
    const found = index === null ? undefined : plan.phased.phases[index]?.call;
    if (found && found.path !== call.path)
      throw new Error(
        `layer ${fn.name}: the gradient of the expert call of "${call.path}" was expected after phase ${index}, but "${found.path}" is there; this is a defect of the engine`,
      );
    return found ?? null;
  });
}
