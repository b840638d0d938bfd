import {
  addArrays,
  allReduceTree,
  ErrorFeedback,
  type Group,
  type TreeReduction,
  type TreeUnit,
  type UnitSums,
} from '../comm/index.ts';
import { float32 } from '../tensor/index.ts';
import type { HeldParam } from './param-group.ts';
import type { RankParts } from './program-run.ts';
import type { TensorSpace } from './tensor-space.ts';

/** Units of a reduction whose first tensors pass a codec, and whose others must not. */
export interface CompressedUnits extends Omit<TreeReduction, 'units'> {
  /** One for each group: gradients (or changes of parameters), then contributions to state. */
  readonly units: readonly TreeUnit[];
  /** For each unit, the parameters that its first tensors are of. */
  readonly params: readonly (readonly HeldParam[])[];
}

/**
 * An all-reduce of gradients through the codec of `comm.compression`. State contributions (counts of tokens, batch
 * statistics) are summed apart, as they are: a codec that shares scales between neighbours would spoil them. With top-k
 * each rank sends the largest of its own sum over all its leaves and keeps the rest as a residual.
 */
export async function reduceCompressed(
  { transport, space, job }: RankParts,
  group: Group,
  tag: string,
  { leaves, ranges, units, params }: CompressedUnits,
): Promise<UnitSums> {
  const cut = params.map(({ length }) => length);
  const compressed = units.map((unit, i) => slice(unit, 0, cut[i]));
  const others = units.map((unit, i) => slice(unit, cut[i] as number));
  const { gradients, topk_ratio } = job.compression ?? {};
  if (gradients === 'topk' && topk_ratio !== undefined && group.ranks.length > 1)
    for (const [i, unit] of compressed.entries())
      compressed[i] = await keepLargest(space, unit, params[i] as readonly HeldParam[], topk_ratio);
  const sums = await allReduceTree(transport, group, tag, { leaves, ranges, units: compressed });
  const apart = others.some(({ sizes }) => sizes.length > 0);
  const rest = apart
    ? await allReduceTree(transport, group, `state/${tag}`, { leaves, ranges, units: others })
    : new Array<null>(units.length).fill(null);
  return sums.map((sum, i) => (sum === null ? null : [...sum, ...(rest[i] ?? [])]));
}

function slice({ sizes, nodes }: TreeUnit, from: number, to?: number): TreeUnit {
  return {
    sizes: sizes.slice(from, to),
    nodes: nodes.map(({ range, value }) => ({ range, value: value.slice(from, to) })),
  };
}

/** Adds a rank's partial sums up into the first of them and leaves the largest elements; the others are absent then. */
async function keepLargest(
  space: TensorSpace,
  { sizes, nodes }: TreeUnit,
  params: readonly HeldParam[],
  ratio: number,
): Promise<TreeUnit> {
  const [first, ...more] = nodes;
  if (!first) return { sizes, nodes };
  for (const [i, param] of params.entries()) {
    const sum = first.value[i] as Float32Array;
    for (const { value } of more) addArrays(sum, sum, value[i] as Float32Array);
    if (!param.residual) throw new Error(`${param.path} has no residual, but its gradient is to be sent in part`);
    const residual = await space.read(param.residual);
    new ErrorFeedback(sum.length, ratio, residual.data as Float32Array).apply(sum);
    if (space.engine.host(param.residual) !== null) continue;
    space.give(param.residual);
    param.residual = space.engine.upload(float32(residual.data as Float32Array, residual.shape));
  }
  return { sizes, nodes: [first] };
}
