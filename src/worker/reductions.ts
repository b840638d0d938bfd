import {
  type AllGatherUnderWay,
  beginAllGather,
  beginAllReduce,
  beginReduceScatter,
  memberIndex,
  type TreeReduction,
  type TreeUnit,
  type UnitSums,
} from '../comm/index.ts';
import type { Instruction, ReducedKind } from '../plan/index.ts';
import { float32 } from '../tensor/index.ts';
import { reduceCompressed } from './compressed-reduction.ts';
import { groupNamed } from './handlers/group.ts';
import { type HeldParam, type HeldState, type ParamGroup, summedOwners, summedSizes } from './param-group.ts';
import type { ProgramRun } from './program-run.ts';
import { leavesOf } from './rank-model.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

type Reduce = Extract<Instruction, { op: 'AllReduce' | 'ReduceScatter' }> & { readonly what: ReducedKind };
/** What may be finished here. */
type Reducing = Extract<Instruction, { op: 'AllReduce' | 'ReduceScatter' }> | Gather;
type Gather = Extract<Instruction, { op: 'AllGather'; what: 'params' }>;

interface Waiting {
  readonly instruction: Reduce;
  readonly groups: readonly ParamGroup[];
}

interface Missing {
  readonly instruction: Gather;
  /** Groups that are still to be updated. */
  readonly missing: Set<ParamGroup>;
}

/** Whether an instruction finishes sums of gradients. */
function isReduce(instruction: Instruction): instruction is Reduce {
  return instruction.op === 'ReduceScatter' || (instruction.op === 'AllReduce' && instruction.what !== 'changes');
}

/** The second half of an exchange. */
type Finish = () => Promise<void>;

/**
 * Exchanges of gradients, and of the parameters that were updated with them, of one execution of a program. Each begins
 * as soon as what this rank sends is there (the last gradient of a bucket of layers, its last update), not only when the
 * program comes to its instruction, which finishes it: so it is on its way while other layers compute.
 */
export class Reductions {
  readonly #run: ProgramRun;
  readonly #begun = new Map<Instruction, Promise<Finish>>();
  /** Reductions not yet begun. */
  readonly #waiting: Waiting[] = [];
  /** Gathers not yet begun. */
  readonly #gathers: Missing[] = [];

  constructor(run: ProgramRun) {
    this.#run = run;
    for (const instruction of run.program.instructions)
      if (isReduce(instruction))
        this.#waiting.push({ instruction, groups: this.#groups(instruction.what, instruction.layers) });
      else if (instruction.op === 'AllGather' && instruction.what === 'params')
        this.#gathers.push({ instruction, missing: new Set(this.#groups(instruction.of, instruction.layers)) });
  }

  /** Gradients of a layer have been added up: begins what was only waiting for them. */
  gradientsOf(layer: number): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const { instruction, groups } = this.#waiting[i] as Waiting;
      if (!instruction.layers.includes(layer) || !groups.every(({ gradients }) => gradients.complete)) continue;
      this.#waiting.splice(i, 1);
      this.#begin(instruction);
    }
  }

  /** A group has been updated as far as this rank does that: begins what was only waiting for it. */
  updated(group: ParamGroup): void {
    for (let i = this.#gathers.length - 1; i >= 0; i--) {
      const { instruction, missing } = this.#gathers[i] as Missing;
      if (!missing.delete(group) || missing.size > 0) continue;
      this.#gathers.splice(i, 1);
      this.#begin(instruction);
    }
  }

  /** Finishes an exchange, beginning it if that has not been done. */
  async finish(instruction: Reducing): Promise<void> {
    if (instruction.op === 'AllReduce' && !isReduce(instruction))
      throw new Error(`an AllReduce of ${instruction.what} is none of gradients`);
    const finish = await this.#begin(instruction);
    await finish();
  }

  #begin(instruction: Reduce | Gather): Promise<Finish> {
    let begun = this.#begun.get(instruction);
    if (!begun) {
      begun = instruction.op === 'AllGather' ? this.#beginGather(instruction) : this.#beginReduce(instruction);
      // Whoever finishes it is told; until then a failure must not count as unhandled.
      begun.catch(() => undefined);
      this.#begun.set(instruction, begun);
    }
    return begun;
  }

  async #beginReduce(instruction: Reduce): Promise<Finish> {
    const { what, layers, tag } = instruction;
    const { transport, space, job } = this.#run.parts;
    const { program } = this.#run;
    const group = groupNamed(program, instruction.group);
    const exact = job.numerics === 'exact';
    const me = memberIndex(transport, group);
    const held: Opened[] = [];
    for (const paramGroup of this.#groups(what, layers)) held.push(await open(space, paramGroup, me));
    const reduction: TreeReduction = {
      leaves: exact ? program.microbatches : group.ranks.length,
      ranges: group.ranks.map((rank, i) => (exact ? leavesOf(program, what, rank) : { start: i, end: i + 1 })),
      units: held.map(({ unit }) => unit),
    };
    if ((job.compression?.gradients ?? 'none') !== 'none') {
      const params = held.map(({ paramGroup: g }) => g.gradientOf.map((i) => g.params[i] as HeldParam));
      return async () => {
        const sums = await reduceCompressed(this.#run.parts, group, tag, { ...reduction, params });
        settle(space, held, instruction.op === 'AllReduce' ? sums : ownedOf(sums, held));
      };
    }
    if (instruction.op === 'AllReduce') {
      const underWay = beginAllReduce(transport, group, tag, reduction);
      return async () => settle(space, held, await underWay.finish());
    }
    const owners = held.map(({ paramGroup }) => summedOwners(paramGroup));
    const underWay = beginReduceScatter(transport, group, tag, reduction, owners);
    return async () => settle(space, held, await underWay.finish());
  }

  async #beginGather({ of, layers, tag, group: id }: Gather): Promise<Finish> {
    const { transport, space } = this.#run.parts;
    const group = groupNamed(this.#run.program, id);
    const units = this.#groups(of, layers).map(gathered);
    const me = memberIndex(transport, group);
    const owners = units.map((unit) => unit.map(({ owner }) => owner));
    const own = new Map<HeldParam | HeldState, Float32Array>();
    for (const { holder, owner } of units.flat())
      if (owner === me) own.set(holder, (await space.read(holder.tensor)).data as Float32Array);
    const sizes = units.map((unit) => unit.map(({ holder }) => elements(holder)));
    const holderAt: HolderAt = (unit, tensor) => {
      const found = units[unit]?.[tensor] as Gathered;
      return found.holder;
    };
    const underWay = beginAllGather(
      transport,
      group,
      tag,
      sizes,
      owners,
      (unit, tensor) => own.get(holderAt(unit, tensor)) as Float32Array,
    );
    return () => take(space, underWay, holderAt);
  }

  #groups(what: ReducedKind, layers: readonly number[]): ParamGroup[] {
    return this.#run.parts.model.groups.filter(
      (group) => layers.includes(group.layer) && (group.expert !== null) === (what === 'experts'),
    );
  }
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

/** Of all sums, those that this rank owns. (Compressed sums go to every rank.) */
function ownedOf(sums: UnitSums, held: readonly Opened[]): (Float32Array | null)[][] {
  return held.map(({ paramGroup }, u) =>
    summedOwners(paramGroup).map((owner, i) => (owner === paramGroup.shards?.member ? (sums[u]?.[i] ?? null) : null)),
  );
}

/** Hands finished sums to the groups; null entries are absent everywhere, or another rank's. */
function settle(
  space: TensorSpace,
  held: readonly Opened[],
  sums: readonly (readonly (Float32Array | null)[] | null)[],
): void {
  held.forEach(({ paramGroup, cells, unit }, u) => {
    const first = unit.nodes[0]?.value;
    paramGroup.gradients.reset();
    paramGroup.reduced = summedSizes(paramGroup).map((_, i) => {
      const data = sums[u]?.[i];
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
}

function shapeOf(group: ParamGroup, index: number): readonly number[] {
  const gradients = group.gradientOf.length;
  return index < gradients
    ? (group.params[group.gradientOf[index] as number]?.spec.shape ?? [])
    : (group.state[group.contributionOf[index - gradients] as number]?.spec.shape ?? []);
}

/** A parameter or state tensor that one rank gives to the others. */
interface Gathered {
  readonly holder: HeldParam | HeldState;
  readonly owner: number;
}

type HolderAt = (unit: number, tensor: number) => HeldParam | HeldState;

function gathered({ params, state, shards }: ParamGroup): Gathered[] {
  return [
    ...params.map((holder, i) => ({ holder, owner: shards?.params[i] ?? 0 })),
    ...state.map((holder) => ({ holder, owner: shards?.state ?? 0 })),
  ];
}

function elements({ spec }: HeldParam | HeldState): number {
  return spec.shape.reduce((product, dim) => product * dim, 1);
}

/** Takes in what others have updated: into the memory of the old values, or on a device into new tensors. */
async function take(space: TensorSpace, underWay: AllGatherUnderWay, holderAt: HolderAt): Promise<void> {
  const received = new Map<HeldParam | HeldState, Float32Array>();
  await underWay.finish((unit, tensor) => {
    const holder = holderAt(unit, tensor);
    const host = space.engine.host(holder.tensor);
    if (host) return host.data as Float32Array;
    const data = received.get(holder) ?? new Float32Array(elements(holder));
    received.set(holder, data);
    return data;
  });
  for (const [holder, data] of received) {
    space.give(holder.tensor);
    holder.tensor = space.engine.upload(float32(data, holder.spec.shape));
  }
}
