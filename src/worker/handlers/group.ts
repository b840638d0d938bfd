import type { Group } from '../../comm/index.ts';
import type { Program } from '../../plan/index.ts';

/** A group of the program by its id. @throws RangeError if the program has none of that name */
export function groupNamed(program: Program, id: string): Group {
  const group = program.groups[id];
  if (!group) throw new RangeError(`the program of rank ${program.rank} has no group "${id}"`);
  return group;
}
