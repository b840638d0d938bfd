import { allReduceTree, memberIndex, type TreeUnit } from '../../comm/index.ts';
import { float32 } from '../../tensor/index.ts';
import { reduceCompressed } from '../compressed-reduction.ts';
import { type HeldParam, type ParamGroup, summedSizes } from '../param-group.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import { leavesOf } from '../rank-model.ts';
import type { Cell, TensorSpace } from '../tensor-space.ts';
import { groupNamed } from './group.ts';
import { reduceChanges } from './outer.ts';

/** Finishes the sums of gradients and state contributions of a stage over the ranks of a group. */
export const allReduce: Handler<'AllReduce'> = async (run, instruction) => {
  const { what, group: id, stage, tag } = instruction;
  if (what === 'changes') return reduceChanges(run, instruction);
  const { transport, space, job } = run.parts;
  const { program } = run;
  const group = groupNamed(program, id);
  const groups = groupsOfStage(run, stage).filter((g) => (g.expert !== null) === (what === 'experts'));
  const exact = job.numerics === 'exact';
  const me = memberIndex(transport, group);
  const held = [];
  for (const paramGroup of groups) held.push(await open(space, paramGroup, me));
  const reduction = {
    leaves: exact ? program.microbatches : group.ranks.length,
    ranges: group.ranks.map((rank, i) => (exact ? leavesOf(program, what, rank) : { start: i, end: i + 1 })),
    units: held.map(({ unit }) => unit),
  };
  const params = groups.map((g) => g.gradientOf.map((i) => g.params[i] as HeldParam));
  const sums = await ((job.compression?.gradients ?? 'none') !== 'none'
    ? reduceCompressed(run.parts, group, tag, { ...reduction, params })
    : allReduceTree(transport, group, tag, reduction));
  held.forEach(({ paramGroup, cells, unit }, u) => {
    const sum = sums[u];
    const first = unit.nodes[0]?.value;
    paramGroup.gradients.reset();
    paramGroup.reduced = summedSizes(paramGroup).map((_, i) => {
      const data = sum?.[i];
      if (!data) return null;
      const cell = cells[0]?.[i];
      // The sum usually lies in the memory of the first partial sum that this rank had.
      if (cell && data === first?.[i] && space.engine.host(cell.tensor)) {
        space.retain(cell);
        return cell;
      }
      return space.upload(float32(data, shapeOf(paramGroup, i)));
    });
    for (const node of cells) for (const cell of node) space.release(cell);
  });
};

/** Groups of parameters of a stage's layers, in a fixed order. */
export function groupsOfStage(run: ProgramRun, stage: number): ParamGroup[] {
  const { layers } = run.stage(stage);
  return run.parts.model.groups.filter((group) => layers.includes(group.layer));
}

/**
 * The sums of a group's gradients and contributions once they are complete: as reduced over ranks, or this rank's own
 * where it computed all microbatches itself. Null entries are zeros.
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

interface Opened {
  readonly paramGroup: ParamGroup;
  /** By node. */
  readonly cells: readonly (readonly Cell[])[];
  readonly unit: TreeUnit;
}

/** A group's partial sums in host memory that may be overwritten. */
async function open(space: TensorSpace, paramGroup: ParamGroup, member: number): Promise<Opened> {
  const cells: Cell[][] = [];
  const nodes: { range: TreeUnit['nodes'][number]['range']; value: Float32Array[] }[] = [];
  for (const { range, value } of paramGroup.gradients.partial(member)) {
    const own: Cell[] = [];
    const arrays: Float32Array[] = [];
    for (const cell of value) {
      const tensor = await space.read(cell.tensor);
      let data = tensor.data as Float32Array;
      let mine = cell;
      const shared = !cell.owned || cell.refs > 1;
      if (shared && space.engine.host(cell.tensor)) {
        data = data.slice();
        space.release(cell);
        mine = space.upload(float32(data, tensor.shape));
      }
      own.push(mine);
      arrays.push(data);
    }
    cells.push(own);
    nodes.push({ range, value: arrays });
  }
  return { paramGroup, cells, unit: { sizes: summedSizes(paramGroup), nodes } };
}

function shapeOf(group: ParamGroup, index: number): readonly number[] {
  const gradients = group.gradientOf.length;
  return index < gradients
    ? (group.params[group.gradientOf[index] as number]?.spec.shape ?? [])
    : (group.state[group.contributionOf[index - gradients] as number]?.spec.shape ?? []);
}
