import type { DeviceTensor } from '../../engine/index.ts';
import { clipScale, stepScalars } from '../../optim/index.ts';
import { scalar } from '../../tensor/index.ts';
import { NonFinite } from '../non-finite.ts';
import { type HeldParam, type ParamGroup, updatedHere } from '../param-group.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { Cell } from '../tensor-space.ts';
import { gradientsOf } from './gradients.ts';
import { globalNorm, ownTotals, totalSums } from './norms.ts';
import { optimizeOuter } from './outer.ts';
import { finishedSums, groupsOfStage } from './reduce.ts';

/**
 * Updates parameters, optimizer state and module state of the stages, as far as this rank owns them. New values take the
 * place of old ones' memory.
 */
export const optimize: Handler<'Optimize'> = async (run, { stages, outer }) => {
  if (outer) return optimizeOuter(run, stages);
  const { space, optimizer: plan } = run.parts;
  const { squared, sums: found } = run.totals ?? (await ownTotals(run));
  run.gradNorm = globalNorm(squared);
  run.lr = plan.lrAt(run.step);
  if (!Number.isFinite(run.gradNorm)) {
    const path = [...squared].find(([, value]) => !Number.isFinite(value))?.[0] ?? null;
    throw new NonFinite({ kind: 'gradient', value: run.gradNorm, path, step: run.step });
  }
  const clip = plan.clipNorm !== null;
  const values = stepScalars(plan, run.step, found ? totalSums(found) : []);
  if (clip) values.push(clipScale(run.gradNorm, plan.clipNorm));
  const scalars = values.map((value) => space.upload(scalar(value)));
  for (const stage of stages)
    for (const group of groupsOfStage(run, stage)) {
      const sums = finishedSums(group);
      group.reduced = null;
      await updateParams(run, group, sums, scalars, clip);
      await updateState(run, group, sums);
      for (const cell of sums) if (cell) space.release(cell);
      run.reductions.updated(group);
    }
  for (const cell of scalars) space.release(cell);
};

async function updateParams(
  run: ProgramRun,
  group: ParamGroup,
  sums: readonly (Cell | null)[],
  scalars: readonly Cell[],
  clip: boolean,
): Promise<void> {
  const indices = updatedHere(group);
  if (indices.length === 0) return;
  const params = indices.map((i) => group.params[i] as HeldParam);
  const { space, model, optimizer } = run.parts;
  const phase = optimizer.optimizer.phaseAt?.(run.step + 1);
  const executable = await model.updates.once(group, `update ${phase}`, () =>
    model.updates.update(params, clip, phase),
  );
  const gradients = gradientsOf(space, group, indices, sums);
  const old = [...params.map((param) => param.tensor), ...params.flatMap((param) => param.slots)];
  const results = await space.run(executable, [
    ...old.slice(0, params.length),
    ...gradients.tensors,
    ...old.slice(params.length),
    ...scalars.map((cell) => cell.tensor),
  ]);
  let at = params.length;
  params.forEach((param, i) => {
    param.tensor = results[i] as DeviceTensor;
    param.slots = results.slice(at, at + param.slots.length);
    at += param.slots.length;
  });
  for (const tensor of old) space.give(tensor);
  gradients.release();
}

async function updateState(run: ProgramRun, group: ParamGroup, sums: readonly (Cell | null)[]): Promise<void> {
  const { space, model } = run.parts;
  if (group.shards && group.shards.state !== group.shards.member) return;
  const contributed = group.contributionOf.flatMap((index, i) => {
    const sum = sums[group.gradientOf.length + i];
    const state = group.state[index];
    return sum && state ? [{ state, sum }] : [];
  });
  if (contributed.length === 0) return;
  const executable = await model.updates.updateState(
    group.name,
    contributed.map(({ state }) => state),
  );
  const results = await space.run(executable, [
    ...contributed.map(({ state }) => state.tensor),
    ...contributed.map(({ sum }) => sum.tensor),
  ]);
  contributed.forEach(({ state }, i) => {
    space.give(state.tensor);
    state.tensor = results[i] as DeviceTensor;
  });
}
