import { type MeshShape, positionOf } from './mesh.ts';
import { expertMember, expertPosition, type Placed } from './placement.ts';
import type { ReducedKind } from './program.ts';
import type { ModelSummary } from './summary.ts';

/**
 * Who owns what where optimizer state is sharded: the member of a group (its index) for each item, so that members own
 * about as many bytes. Items are parameters, whole (Muon and norms need them so), and the state of a layer as one. The
 * largest come first, each to the member that has least so far; among equals the order is that of the list, so every rank
 * comes to the same answer. (Rajbhandari et al. 2020, arXiv:1910.02054, stage 1, with whole parameters.)
 */
export function shardOwners(bytes: readonly number[], members: number): number[] {
  const owners = new Array<number>(bytes.length).fill(0);
  const load = new Array<number>(members).fill(0);
  const order = bytes.map((_, i) => i).sort((a, b) => (bytes[b] as number) - (bytes[a] as number) || a - b);
  for (const item of order) {
    let least = 0;
    for (let member = 1; member < members; member++)
      if ((load[member] as number) < (load[least] as number)) least = member;
    owners[item] = least;
    load[least] = (load[least] as number) + (bytes[item] as number);
  }
  return owners;
}

/** An item of `shardOwners`, as the planner knows it. */
interface Item {
  readonly bytes: number;
  readonly optimizerBytes: number;
}

/** Bytes that a rank holds, and what it updates of them. */
export interface OptimizerShare {
  /** Bytes of optimizer state. */
  readonly optimizerBytes: number;
  /** Bytes of the parameters that the rank updates. */
  readonly updatedBytes: number;
}

/** What each rank keeps of the optimizer's state. The answer is a look-up after the first rank of a kind. */
export function optimizerShares(
  summary: ModelSummary,
  placed: Placed & { readonly zero: 0 | 1 },
): (rank: number) => OptimizerShare {
  const { mesh, stages, zero } = placed;
  const known = new Map<string, readonly OptimizerShare[]>();
  /** By member of the group over which the items are sharded. */
  const shares = (key: string, members: number, items: () => readonly Item[]): readonly OptimizerShare[] => {
    const found = known.get(key);
    if (found) return found;
    const list = items();
    const owners =
      zero === 1
        ? shardOwners(
            list.map(({ bytes }) => bytes),
            members,
          )
        : null;
    const made = Array.from({ length: members }, (): { optimizerBytes: number; updatedBytes: number } => ({
      optimizerBytes: 0,
      updatedBytes: 0,
    }));
    list.forEach(({ bytes, optimizerBytes }, i) => {
      for (const [member, share] of made.entries()) {
        if (owners && owners[i] !== member) continue;
        share.optimizerBytes += optimizerBytes;
        share.updatedBytes += bytes;
      }
    });
    known.set(key, made);
    return made;
  };
  return (rank) => {
    const { data, pipeline } = positionOf(mesh, rank);
    const { group, member } = expertPosition(mesh, data);
    const own = stages.filter((stage) => stage.pipelineRank === pipeline).flatMap((stage) => stage.layers);
    const dense = shares(`dense ${pipeline}`, mesh.data, () => itemsOf(summary, mesh, own, 'dense', member))[data];
    const experts = shares(`experts ${pipeline} ${member}`, mesh.data / mesh.expert, () =>
      itemsOf(summary, mesh, own, 'experts', member),
    )[group];
    return {
      optimizerBytes: (dense?.optimizerBytes ?? 0) + (experts?.optimizerBytes ?? 0),
      updatedBytes: (dense?.updatedBytes ?? 0) + (experts?.updatedBytes ?? 0),
    };
  };
}

/** Items of layers in the order in which a worker has them: parameters, then (as one, if there is any) state. */
function itemsOf(
  summary: ModelSummary,
  mesh: MeshShape,
  layers: readonly number[],
  what: ReducedKind,
  member: number,
): Item[] {
  return layers.flatMap((index): readonly Item[] => {
    const layer = summary.layers[index];
    if (!layer) return [];
    if (what === 'experts')
      return layer.expertCalls.flatMap((call) =>
        call.experts.filter((_, e) => expertMember(e, call.experts.length, mesh.expert) === member).flat(),
      );
    return layer.stateBytes > 0 ? [...layer.params, { bytes: layer.stateBytes, optimizerBytes: 0 }] : layer.params;
  });
}
