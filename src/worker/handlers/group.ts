import type { Group } from '../../comm/index.ts';
import type { Program } from '../../plan/index.ts';
import type { ParamGroup } from '../param-group.ts';
import type { ProgramRun } from '../program-run.ts';

/** A group of the program by its id. @throws RangeError if the program has none of that name */
export function groupNamed(program: Program, id: string): Group {
  const group = program.groups[id];
  if (!group) throw new RangeError(`the program of rank ${program.rank} has no group "${id}"`);
  return group;
}

/** Groups of parameters of a stage's layers, in a fixed order. */
export function groupsOfStage(run: ProgramRun, stage: number): ParamGroup[] {
  const { layers } = run.stage(stage);
  return run.parts.model.groups.filter((group) => layers.includes(group.layer));
}
