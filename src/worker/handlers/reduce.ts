import type { ParamGroup } from '../param-group.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { Cell } from '../tensor-space.ts';
import { reduceChanges } from './outer.ts';

/** Finishes the sums of gradients and state contributions of some layers over the ranks of a group. */
export const allReduce: Handler<'AllReduce'> = (run, instruction) =>
  instruction.what === 'changes' ? reduceChanges(run, instruction) : run.reductions.finish(instruction);

/** The same where each rank gets the sums of what it owns only. */
export const reduceScatter: Handler<'ReduceScatter'> = (run, instruction) => run.reductions.finish(instruction);

/** Groups of parameters of a stage's layers, in a fixed order. */
export function groupsOfStage(run: ProgramRun, stage: number): ParamGroup[] {
  const { layers } = run.stage(stage);
  return run.parts.model.groups.filter((group) => layers.includes(group.layer));
}

/**
 * The sums of a group's gradients and contributions once they are complete: as reduced over ranks, or this rank's own
 * where it computed all microbatches itself. Null entries are zeros, or sums that another rank owns.
 */
export function finishedSums(group: ParamGroup): readonly (Cell | null)[] {
  if (!group.reduced) {
    const count = group.gradientOf.length + group.contributionOf.length;
    const total = count === 0 ? [] : group.gradients.total();
    group.reduced = total ?? new Array<null>(count).fill(null);
    group.gradients.reset();
  }
  return group.reduced;
}
