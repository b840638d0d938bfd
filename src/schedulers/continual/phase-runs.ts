import type { PhaseRun, StepPhase } from '../../optim/index.ts';

/** Phases step by step as runs of equal ones; a pattern that alternates becomes one run with a cycle of two. */
export function phaseRuns(phases: readonly StepPhase[], restarts: ReadonlySet<number>): PhaseRun[] {
  const runs: { steps: number; cycle: StepPhase[]; restarts?: true }[] = [];
  for (const [step, phase] of phases.entries()) {
    const last = runs.at(-1);
    if (restarts.has(step)) runs.push({ steps: 1, cycle: [phase], restarts: true });
    else if (last && last.cycle[last.steps % last.cycle.length] === phase) last.steps += 1;
    else if (last && last.cycle.length === 1 && last.steps === 1) {
      last.cycle.push(phase);
      last.steps = 2;
    } else runs.push({ steps: 1, cycle: [phase] });
  }
  return runs;
}
