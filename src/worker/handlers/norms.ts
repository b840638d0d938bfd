import { allGather } from '../../comm/index.ts';
import type { DeviceTensor } from '../../engine/index.ts';
import { float32, type HostTensor, pathsInOrder } from '../../tensor/index.ts';
import { type HeldParam, updatedHere } from '../param-group.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { Cell } from '../tensor-space.ts';
import { groupNamed } from './group.ts';
import { finishedSums } from './reduce.ts';

/**
 * Gives every rank of a group what each of them knows of the squared gradient norms of parameters: of its own, or, in a
 * second exchange, of those that it has been told.
 */
async function gatherNorms(run: ProgramRun, id: string, tag: string): Promise<void> {
  const { transport, peerPaths } = run.parts;
  const group = groupNamed(run.program, id);
  const own = run.squaredNorms ?? (await ownSquaredNorms(run));
  const ownSums = run.sums ?? (await ownParamSums(run));
  const width = 1 + (run.parts.optimizer.optimizer.sums?.count ?? 0);
  const values = Float32Array.from([...own].flatMap(([path, norm]) => [norm, ...(ownSums?.get(path) ?? [])]));
  const known = peerPaths.get(tag);
  const message: HostTensor[] = [float32(values, [values.length])];
  if (!known) {
    const names = new TextEncoder().encode(JSON.stringify([...own.keys()]));
    message.push({ dtype: 'uint8', shape: [names.length], data: names });
  }
  const gathered = await allGather(transport, group, tag, message);
  const paths =
    known ??
    gathered.map(([, names]) => JSON.parse(new TextDecoder().decode(names?.data as Uint8Array)) as readonly string[]);
  peerPaths.set(tag, paths);
  const norms = new Map<string, number>();
  const sums = new Map<string, readonly number[]>();
  gathered.forEach(([norm], member) => {
    // What several ranks hold has the same bits on all of them.
    const rows = Array.from((norm as HostTensor).data as Float32Array);
    paths[member]?.forEach((path, i) => {
      norms.set(path, rows[i * width] as number);
      if (ownSums) sums.set(path, rows.slice(i * width + 1, (i + 1) * width));
    });
  });
  run.squaredNorms = norms;
  if (ownSums) run.sums = sums;
}

/** Gathers squared gradient norms, or parameters that other ranks have updated. */
export const gather: Handler<'AllGather'> = (run, instruction) =>
  instruction.what === 'norms'
    ? gatherNorms(run, instruction.group, instruction.tag)
    : run.reductions.finish(instruction);

/** Sums of squares of the gradients of what this rank updates, by path. */
export async function ownSquaredNorms(run: ProgramRun): Promise<Map<string, number>> {
  const { space, model } = run.parts;
  const norms = new Map<string, number>();
  // All are computed before one is looked at, so that they can be one run.
  const found: { readonly vector: DeviceTensor; readonly paths: readonly string[] }[] = [];
  for (const group of model.groups) {
    const sums = finishedSums(group).slice(0, group.gradientOf.length);
    for (const i of updatedHere(group)) norms.set((group.params[i] as HeldParam).path, 0);
    const present = sums.flatMap((cell, i) =>
      cell ? [{ cell, param: group.params[group.gradientOf[i] as number] }] : [],
    );
    if (present.length === 0) continue;
    const signatures = present.map(({ cell }) => cell.tensor);
    const executable = await model.updates.once(group, `norms of ${present.length}`, () =>
      model.updates.squaredNorms(signatures),
    );
    const [vector] = await space.run(executable, signatures);
    if (!vector) throw new Error('the norm of gradients has no result');
    found.push({ vector, paths: present.map(({ param }) => (param as HeldParam).path) });
  }
  await run.readMetrics();
  for (const { vector, paths } of found) {
    const { data } = await space.read(vector);
    paths.forEach((path, i) => {
      norms.set(path, Number(data[i]));
    });
    space.give(vector);
  }
  return norms;
}

/**
 * The global gradient norm: squares are added in double precision in the order of the paths, so that every mesh gets the
 * same bits.
 */
export function globalNorm(squared: ReadonlyMap<string, number>): number {
  let total = 0;
  for (const path of pathsInOrder(squared.keys())) total += squared.get(path) as number;
  return Math.sqrt(total);
}

/** What the optimizer wants summed, of what this rank updates, by path; null where it wants nothing. */
export async function ownParamSums(run: ProgramRun): Promise<ReadonlyMap<string, readonly number[]> | null> {
  const { space, model, optimizer } = run.parts;
  const count = optimizer.optimizer.sums?.count ?? 0;
  if (count === 0) return null;
  const found = new Map<string, readonly number[]>();
  for (const group of model.groups) {
    const indices = updatedHere(group);
    if (indices.length === 0) continue;
    const params = indices.map((i) => group.params[i] as HeldParam);
    const sums = finishedSums(group);
    const borrowed: Cell[] = [];
    const gradients = indices.map((index) => {
      const position = group.gradientOf.indexOf(index);
      const cell = position < 0 ? null : sums[position];
      if (cell) return cell.tensor;
      const zeros = space.zeros((group.params[index] as HeldParam).tensor);
      borrowed.push(zeros);
      return zeros.tensor;
    });
    const executable = await model.updates.once(group, 'sums', () => model.updates.sums(params));
    const [matrix] = await space.run(executable, [
      ...params.map(({ tensor }) => tensor),
      ...gradients,
      ...params.flatMap(({ slots }) => slots),
    ]);
    if (!matrix) throw new Error('the sums over parameters have no result');
    const { data } = await space.read(matrix);
    params.forEach(({ path }, i) => {
      found.set(path, Array.from((data as Float32Array).subarray(i * count, (i + 1) * count)));
    });
    space.give(matrix);
    for (const cell of borrowed) space.release(cell);
  }
  return found;
}

/** The totals over all parameters, in double precision and in the order of the paths. */
export function totalSums(sums: ReadonlyMap<string, readonly number[]>, count: number): number[] {
  const totals = new Array<number>(count).fill(0);
  for (const path of pathsInOrder(sums.keys()))
    sums.get(path)?.forEach((value, i) => {
      totals[i] = (totals[i] as number) + value;
    });
  return totals;
}
