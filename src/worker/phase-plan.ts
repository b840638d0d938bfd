import type { ExpertCall, PhasedFunction, SlotId } from '../engine/index.ts';

/** What a layer's (or expert's) caller takes out of an environment itself, besides what phases read. */
export interface PhaseConsumers {
  /** Outputs whose values are wanted, by index. */
  readonly outputs: readonly number[];
}

/**
 * A phased function with what running it needs: which phases are forward, which backward, and how often each slot's
 * value will be asked for, so that memory is free as soon as the last one has had it.
 */
export interface PhasePlan {
  readonly phased: PhasedFunction;
  /** Number of phases that a forward consists of: one more than there are expert calls. */
  readonly forwards: number;
  /** Index of the phase that is the backward of forward phase i, or null if nothing is left to do there. */
  readonly backwardOf: readonly (number | null)[];
  /** Index of the `backward-weight` phase, or null. */
  readonly weightPhase: number | null;
  readonly uses: ReadonlyMap<SlotId, number>;
}

/** Expert calls that end forward phases, in order. */
export function forwardCalls(phased: PhasedFunction, calls: number): ExpertCall[] {
  const found = phased.phases.flatMap((phase) => (phase.call ? [phase.call] : []));
  if (found.length < calls)
    throw new Error(
      `a layer with ${calls} expert calls was cut at ${found.length} of them; this is a defect of the engine`,
    );
  return found.slice(0, calls);
}

/**
 * Plans a phased function with `calls` expert calls. Forward phase i is phase i; in a fused function the last forward
 * phase is also its own backward, and the phases after it serve the calls' gradients.
 */
export function planPhases(phased: PhasedFunction, calls: number, consumers: PhaseConsumers): PhasePlan {
  const forwards = calls + 1;
  const weight = phased.phases.findIndex((phase) => phase.kind === 'backward-weight');
  const body = weight < 0 ? phased.phases.length : weight;
  const fused =
    !phased.phases.some((phase) => phase.kind === 'backward') && phased.gradients.some((slot) => slot !== null);
  const firstBackward = fused ? forwards - 1 : forwards;
  const backwardOf = Array.from({ length: forwards }, (_, i) => {
    const index = firstBackward + (forwards - 1 - i);
    return index < body && index >= forwards ? index : null;
  });
  if (body > forwards && backwardOf.filter((index) => index !== null).length !== body - forwards)
    throw new Error(
      `a layer with ${calls} expert calls has ${body - forwards} backward phases; expected at most ${forwards}`,
    );
  return {
    phased,
    forwards,
    backwardOf,
    weightPhase: weight < 0 ? null : weight,
    uses: countUses(phased, calls, consumers),
  };
}

function countUses(phased: PhasedFunction, calls: number, consumers: PhaseConsumers): Map<SlotId, number> {
  const uses = new Map<SlotId, number>();
  const use = (slot: SlotId | null | undefined) => {
    if (slot !== null && slot !== undefined) uses.set(slot, (uses.get(slot) ?? 0) + 1);
  };
  for (const phase of phased.phases) {
    for (const slot of phase.reads) use(slot);
    use(phase.call?.rows);
  }
  for (const call of forwardCalls(phased, calls)) use(call.counts);
  for (const output of consumers.outputs) use(phased.outputs[output]);
  for (const slot of phased.gradients) use(slot);
  return uses;
}
