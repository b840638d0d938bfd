import { allGather } from '../../comm/index.ts';
import type { DeviceTensor } from '../../engine/index.ts';
import { float32, type HostTensor, pathsInOrder } from '../../tensor/index.ts';
import { type HeldParam, updatedHere } from '../param-group.ts';
import type { Handler, ParamTotals, ProgramRun } from '../program-run.ts';
import { gradientsOf } from './gradients.ts';
import { groupNamed } from './group.ts';
import { finishedSums } from './reduce.ts';

/**
 * Gives every rank of a group what each of them knows of the squared gradient norms of parameters: of its own, or, in a
 * second exchange, of those that it has been told.
 */
async function gatherNorms(run: ProgramRun, id: string, tag: string): Promise<void> {
  const { transport, peerPaths } = run.parts;
  const group = groupNamed(run.program, id);
  const { squared: own, sums: ownSums } = run.totals ?? (await ownTotals(run));
  const width = 1 + (ownSums ? (run.parts.optimizer.optimizer.sums?.count ?? 0) : 0);
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
  const squared = new Map<string, number>();
  const sums = new Map<string, readonly number[]>();
  gathered.forEach(([norm], member) => {
    // What several ranks hold has the same bits on all of them.
    const rows = Array.from((norm as HostTensor).data as Float32Array);
    paths[member]?.forEach((path, i) => {
      squared.set(path, rows[i * width] as number);
      if (ownSums) sums.set(path, rows.slice(i * width + 1, (i + 1) * width));
    });
  });
  run.totals = { squared, sums: ownSums && sums };
}

/** Gathers squared gradient norms, or parameters that other ranks have updated. */
export const gather: Handler<'AllGather'> = (run, instruction) =>
  instruction.what === 'norms'
    ? gatherNorms(run, instruction.group, instruction.tag)
    : run.reductions.finish(instruction);

/** What is summed over the parameters that this rank updates. All is computed before any is looked at, so that it can be one run. */
export async function ownTotals(run: ProgramRun): Promise<ParamTotals> {
  const norms = await squaredNorms(run);
  const found = await paramSums(run);
  await run.readMetrics();
  const squared = new Map(
    run.parts.model.groups.flatMap((group) =>
      updatedHere(group).map((i): [string, number] => [(group.params[i] as HeldParam).path, 0]),
    ),
  );
  for (const [path, [norm]] of await rowsOf(run, norms)) squared.set(path, norm as number);
  return { squared, sums: found && (await rowsOf(run, found)) };
}

/** A matrix, or a vector, with a row for each path. */
interface Rows {
  readonly tensor: DeviceTensor;
  readonly paths: readonly string[];
}

/** Looks at rows, by path, and lets their tensors go. */
async function rowsOf(
  { parts: { space } }: ProgramRun,
  rows: readonly Rows[],
): Promise<Map<string, readonly number[]>> {
  const found = new Map<string, readonly number[]>();
  for (const { tensor, paths } of rows) {
    const { data } = await space.read(tensor);
    const width = data.length / paths.length;
    paths.forEach((path, i) => {
      found.set(path, Array.from((data as Float32Array).subarray(i * width, (i + 1) * width)));
    });
    space.give(tensor);
  }
  return found;
}

/** Sums of squares of the gradients that there are. */
async function squaredNorms({ parts: { space, model } }: ProgramRun): Promise<Rows[]> {
  const found: Rows[] = [];
  for (const group of model.groups) {
    const sums = finishedSums(group).slice(0, group.gradientOf.length);
    const present = sums.flatMap((cell, i) =>
      cell ? [{ cell, param: group.params[group.gradientOf[i] as number] }] : [],
    );
    if (present.length === 0) continue;
    const signatures = present.map(({ cell }) => cell.tensor);
    const executable = await model.updates.once(group, `norms of ${present.length}`, () =>
      model.updates.squaredNorms(signatures),
    );
    const [tensor] = await space.run(executable, signatures);
    if (!tensor) throw new Error('the norm of gradients has no result');
    found.push({ tensor, paths: present.map(({ param }) => (param as HeldParam).path) });
  }
  return found;
}

/** What the optimizer wants summed; null where it wants nothing in this step. */
async function paramSums(run: ProgramRun): Promise<Rows[] | null> {
  const { space, model, optimizer } = run.parts;
  const { sums: wanted } = optimizer.optimizer;
  if (!wanted || wanted.at?.(run.step + 1) === false) return null;
  const found: Rows[] = [];
  for (const group of model.groups) {
    const indices = updatedHere(group);
    if (indices.length === 0) continue;
    const params = indices.map((i) => group.params[i] as HeldParam);
    const gradients = gradientsOf(space, group, indices, finishedSums(group));
    const executable = await model.updates.once(group, 'sums', () => model.updates.sums(params));
    const [tensor] = await space.run(executable, [
      ...params.map((param) => param.tensor),
      ...gradients.tensors,
      ...params.flatMap(({ slots }) => slots),
    ]);
    if (!tensor) throw new Error('the sums over parameters have no result');
    found.push({ tensor, paths: params.map(({ path }) => path) });
    gradients.release();
  }
  return found;
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

/** The totals over all parameters, in double precision and in the order of the paths. */
export function totalSums(sums: ReadonlyMap<string, readonly number[]>): number[] {
  const totals: number[] = [];
  for (const path of pathsInOrder(sums.keys()))
    sums.get(path)?.forEach((value, i) => {
      totals[i] = (totals[i] ?? 0) + value;
    });
  return totals;
}
