import { allReduceTree, memberIndex, type TreeUnit } from '../../comm/index.ts';
import type { DeviceTensor } from '../../engine/index.ts';
import { float32, type HostTensor, scalar } from '../../tensor/index.ts';
import { reduceCompressed } from '../compressed-reduction.ts';
import { NonFinite } from '../non-finite.ts';
import type { HeldParam, HeldState, ParamGroup } from '../param-group.ts';
import type { InstructionOf, ProgramRun } from '../program-run.ts';
import type { RankModel } from '../rank-model.ts';
import type { TensorSpace } from '../tensor-space.ts';
import { groupNamed, groupsOfStage } from './group.ts';

/**
 * Averages over the replicas how far each of them has come in this round: the anchor (where all began) minus the values
 * now. It is what the outer optimizer takes for a gradient (Douillard et al. 2023, "DiLoCo", arXiv 2311.08105).
 */
export async function reduceChanges(
  run: ProgramRun,
  { group: id, stage, tag }: InstructionOf<'AllReduce'>,
): Promise<void> {
  const { transport, space, model, job } = run.parts;
  const group = groupNamed(run.program, id);
  const replicas = group.ranks.length;
  const me = memberIndex(transport, group);
  const groups = groupsOfStage(run, stage);
  const units: TreeUnit[] = [];
  for (const paramGroup of groups) {
    const held = heldOf(paramGroup);
    const value: Float32Array[] = [];
    if (held.length > 0) {
      const anchors = held.map(({ outer }) => outer.anchor);
      const executable = await model.updates.once(paramGroup, 'changes', () =>
        model.updates.changes(anchors, 1 / replicas),
      );
      const changes = await space.run(executable, [...anchors, ...held.map(({ tensor }) => tensor)]);
      for (const change of changes) {
        // The all-reduce writes into its arguments.
        value.push((await space.read(change)).data.slice() as Float32Array);
        space.give(change);
      }
    }
    units.push({ sizes: value.map(({ length }) => length), nodes: [{ range: { start: me, end: me + 1 }, value }] });
  }
  const reduction = { leaves: replicas, ranges: group.ranks.map((_, i) => ({ start: i, end: i + 1 })), units };
  const sums = await ((job.compression?.gradients ?? 'none') !== 'none'
    ? reduceCompressed(run.parts, group, tag, { ...reduction, params: groups.map(({ params }) => params) })
    : allReduceTree(transport, group, tag, reduction));
  groups.forEach((paramGroup, i) => {
    paramGroup.changes = heldOf(paramGroup).map(({ spec, path }, t) => {
      const mean = sums[i]?.[t] as Float32Array;
      for (const change of mean)
        if (!Number.isFinite(change)) throw new NonFinite({ kind: 'gradient', value: change, path, step: run.step });
      return float32(mean, spec.shape);
    });
  });
}

/** Applies the outer optimizer to the anchors, and lets every replica begin the next round there. */
export async function optimizeOuter(run: ProgramRun, stages: readonly number[]): Promise<void> {
  const { space, model } = run.parts;
  const outer = outerOf(model);
  const every = run.program.local?.every ?? 1;
  const round = Math.floor(run.step / every);
  const scalars = outer.plan.optimizer
    .scalars(outer.plan.lrAt(round), round + 1)
    .map((value) => space.upload(scalar(value)));
  for (const stage of stages)
    for (const group of groupsOfStage(run, stage)) {
      const changes = (group.changes ?? []).map((change) => space.upload(change));
      group.changes = null;
      const own = changes.map((cell) => cell.tensor);
      await updateAnchors(
        space,
        outer,
        group,
        own,
        scalars.map((cell) => cell.tensor),
      );
      await averageState(space, model, group, own.slice(group.params.length));
      for (const cell of changes) space.release(cell);
      for (const held of heldOf(group)) {
        space.give(held.tensor);
        held.tensor = await copyOf(space, held.outer.anchor);
      }
    }
  for (const cell of scalars) space.release(cell);
}

async function updateAnchors(
  space: TensorSpace,
  outer: NonNullable<RankModel['outer']>,
  { params }: ParamGroup,
  changes: readonly DeviceTensor[],
  scalars: readonly DeviceTensor[],
): Promise<void> {
  if (params.length === 0) return;
  const anchors = params.map((param) => anchored(param).outer);
  const executable = await outer.updates.update(params, false);
  const old = [...anchors.map(({ anchor }) => anchor), ...anchors.flatMap(({ slots }) => slots)];
  const results = await space.run(executable, [
    ...old.slice(0, params.length),
    ...changes.slice(0, params.length),
    ...old.slice(params.length),
    ...scalars,
  ]);
  let at = params.length;
  anchors.forEach((own, i) => {
    own.anchor = results[i] as DeviceTensor;
    own.slots = results.slice(at, at + own.slots.length);
    at += own.slots.length;
  });
  for (const tensor of old) space.give(tensor);
}

/** Module state is averaged: its anchor minus the mean change. */
async function averageState(
  space: TensorSpace,
  { updates }: RankModel,
  { state }: ParamGroup,
  changes: readonly DeviceTensor[],
): Promise<void> {
  if (state.length === 0) return;
  const outer = state.map((held) => anchored(held).outer);
  const old = outer.map(({ anchor }) => anchor);
  const results = await space.run(await updates.changes(old, 1), [...old, ...changes]);
  outer.forEach((own, i) => {
    own.anchor = results[i] as DeviceTensor;
  });
  for (const tensor of old) space.give(tensor);
}

type Anchored<T extends HeldParam | HeldState> = T & { readonly outer: NonNullable<T['outer']> };

/** What a round changes: parameters, then state. */
function heldOf({ params, state }: ParamGroup): Anchored<HeldParam | HeldState>[] {
  return [...params, ...state].map((held) => anchored(held));
}

function anchored<T extends HeldParam | HeldState>(held: T): Anchored<T> {
  if (!held.outer) throw new Error(`${held.path} has no anchor, but the program averages its changes`);
  return held as Anchored<T>;
}

function outerOf({ outer }: RankModel): NonNullable<RankModel['outer']> {
  if (!outer) throw new Error('the program averages changes, but the job has no outer optimizer');
  return outer;
}

async function copyOf(space: TensorSpace, tensor: DeviceTensor): Promise<DeviceTensor> {
  const { shape, data } = (await space.read(tensor)) as HostTensor;
  return space.make(shape, (copy) => copy.set(data as Float32Array)).tensor;
}
