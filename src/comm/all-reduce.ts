import { float32, type HostTensor } from '../tensor/index.ts';
import { memberIndex, together } from './collectives.ts';
import { FlatLayout, type Piece, type Run } from './flat-layout.ts';
import { scratch } from './scratch.ts';
import type { Group, Transport } from './transport.ts';
import { type LeafRange, maximalNodes, splitPoint } from './tree.ts';

/** Float32 tensors that are summed together and that are absent together (one expert's gradients, say). */
export interface TreeUnit {
  /** Element count of each tensor; the same on every rank. */
  readonly sizes: readonly number[];
  /**
   * This rank's partial sums: maximal nodes of the canonical tree inside its range, absent ones left out. Their memory
   * is the collective's from now on: it is overwritten and may become the result.
   */
  readonly nodes: readonly { readonly range: LeafRange; readonly value: readonly Float32Array[] }[];
}

/** What is summed: units of tensors over the leaves of the canonical tree, and who computed which leaves. */
export interface TreeReduction {
  readonly leaves: number;
  /** Range of leaves of each member of the group, in group order; together they cover all leaves. */
  readonly ranges: readonly LeafRange[];
  readonly units: readonly TreeUnit[];
}

/** Options of a tree all-reduce. */
export interface TreeReductionOptions {
  /** Elements a message may hold per tree node. Default 2^20 (4 MB). */
  readonly pieceElements?: number;
  /** Up to this many elements, every rank adds everything up itself: one round of messages instead of two. Default 2^14. */
  readonly directElements?: number;
}

/** Sums per unit; null where every leaf of every rank was absent. */
export type UnitSums = (readonly Float32Array[] | null)[];

/**
 * All-reduce whose result has the bits of the canonical tree over all leaves, whatever the number of ranks and their
 * shares. The tensors are seen as one line of elements; each member sends its tree nodes of share j to member j, which
 * finishes the tree for that share (a reduce-scatter: everyone adds 1/d of the data), and the sums are all-gathered.
 *
 * For power-of-two groups and shares this is the reduce-scatter and all-gather of Rabenseifner's algorithm (Thakur,
 * Rabenseifner and Gropp 2005, doi 10.1177/1094342005051521) with direct exchange; other group sizes send a few more nodes.
 */
export async function allReduceTree(
  transport: Transport,
  group: Group,
  tag: string,
  reduction: TreeReduction,
  options: TreeReductionOptions = {},
): Promise<UnitSums> {
  const me = memberIndex(transport, group);
  const members = group.ranks.length;
  const { leaves, ranges, units } = reduction;
  if (ranges.length !== members)
    throw new RangeError(`all-reduce "${tag}" over ${members} ranks needs ${members} ranges, got ${ranges.length}`);
  const layout = new FlatLayout(units.map((unit) => unit.sizes));
  const limit = options.pieceElements ?? 2 ** 20;
  // (In a direct exchange everything is packed before anything is added, so it must fit one piece.)
  const direct = layout.total <= Math.min(options.directElements ?? 2 ** 14, limit);
  const shareOf = (member: number): Piece => (direct ? { start: 0, end: layout.total } : layout.share(member, members));
  const nodes = ranges.map((range) => maximalNodes(range, leaves));
  const own = ownNodes(nodes[me] as LeafRange[], units, tag);
  const presence: Uint8Array[] = new Array(members);
  presence[me] = own.presence;
  const peers = group.ranks.flatMap((_, i) => (i === me ? [] : [i]));
  const rankOf = (member: number) => group.ranks[member] as number;
  // Two channels: sums that wait for a slow rank must not use up the credits that it needs to get on.
  const scatterTag = `${tag}/scatter/pieces`;
  const gatherTag = `${tag}/gather/pieces`;

  const scatter = peers.map(async (member) => {
    const pieces = layout.pieces(shareOf(member), limit);
    for (const [index, piece] of pieces.entries()) {
      const packed = float32vector(pack(layout.runs(piece), own.values));
      const tensors: HostTensor[] = index === 0 ? [bytes(own.presence), packed] : [packed];
      await transport.send(rankOf(member), scatterTag, tensors, { transfer: true });
    }
  });

  const results: (Float32Array[] | null)[] = new Array(units.length).fill(null);
  const gathers: Promise<void>[] = [];
  const reduce = async (): Promise<void> => {
    let plans: MergePlan[] | null = null;
    for (const piece of layout.pieces(shareOf(me), limit)) {
      const runs = layout.runs(piece);
      const received: Float32Array[] = new Array(members);
      for (const member of peers) {
        const tensors = await transport.recv(rankOf(member), scatterTag);
        if (!presence[member]) presence[member] = tensors[0]?.data as Uint8Array;
        received[member] = tensors[tensors.length - 1]?.data as Float32Array;
      }
      if (!plans) {
        plans = units.map((_, unit) => mergePlan(leaves, nodes, presence, unit, units.length));
        plans.forEach((plan, unit) => {
          if (plan.root >= 0) results[unit] = own.first(unit) ?? allocateUnit(units[unit] as TreeUnit);
        });
      }
      combine(runs, nodes, presence, units.length, own.values, received, me, plans, results);
      for (const member of peers) scratch.give(received[member] as Float32Array);
      if (direct) continue;
      const packed = packResults(runs, results);
      for (const member of peers) {
        // The last peer is given the memory itself, the others copies.
        const mine = member === peers[peers.length - 1] ? packed : copyOf(packed);
        const sending = transport.send(rankOf(member), gatherTag, [float32vector(mine)], { transfer: true });
        // Awaited below; until then a failure must not count as unhandled.
        sending.catch(() => undefined);
        gathers.push(sending);
      }
    }
  };
  const reducing = reduce();
  // The results' memory exists once this rank's own share has begun, and shares from others may come only after that.
  const gather = peers.map(async (member) => {
    if (direct) return;
    await reducing;
    for (const piece of layout.pieces(shareOf(member), limit)) {
      const [tensor] = await transport.recv(rankOf(member), gatherTag);
      const sums = tensor?.data as Float32Array;
      unpack(layout.runs(piece), sums, results);
      scratch.give(sums);
    }
  });
  await together<void>([reducing, ...gather], scatter);
  await Promise.all(gathers);
  return results;
}

interface OwnNodes {
  /** `[node][unit]`: 1 where a partial sum exists. */
  readonly presence: Uint8Array;
  /** By node, then unit. */
  readonly values: readonly (readonly (readonly Float32Array[] | null)[])[];
  first(unit: number): Float32Array[] | null;
}

function ownNodes(nodes: readonly LeafRange[], units: readonly TreeUnit[], tag: string): OwnNodes {
  const presence = new Uint8Array(nodes.length * units.length);
  const values = nodes.map((node, n) =>
    units.map((unit, u) => {
      const held = unit.nodes.find(({ range }) => range.start === node.start && range.end === node.end);
      if (!held) return null;
      held.value.forEach((array, i) => {
        if (array.length !== unit.sizes[i])
          throw new RangeError(
            `all-reduce "${tag}": tensor ${i} of unit ${u} has ${array.length} elements here, ${unit.sizes[i]} were announced`,
          );
      });
      presence[n * units.length + u] = 1;
      return held.value;
    }),
  );
  units.forEach((unit, u) => {
    const known = values.filter((node) => node[u]).length;
    if (known !== unit.nodes.length)
      throw new RangeError(
        `all-reduce "${tag}": unit ${u} holds partial sums of ${unit.nodes.map(({ range }) => `[${range.start}, ${range.end})`).join(' ')}, ` +
          `but this rank's nodes are ${nodes.map((node) => `[${node.start}, ${node.end})`).join(' ')}`,
      );
  });
  const first = (unit: number) => (values.find((node) => node[unit])?.[unit] as Float32Array[] | undefined) ?? null;
  return { presence, values, first };
}

/** Additions that finish the tree for one unit: partial sums are numbered over all ranks; the left one takes the sum. */
interface MergePlan {
  readonly adds: readonly (readonly [left: number, right: number])[];
  /** Which partial sum ends up as the total; -1 if there is none at all. */
  readonly root: number;
}

function mergePlan(
  leaves: number,
  nodes: readonly (readonly LeafRange[])[],
  presence: readonly Uint8Array[],
  unit: number,
  units: number,
): MergePlan {
  const numbers = new Map<string, number>();
  let next = 0;
  nodes.forEach((list, member) => {
    list.forEach((node, n) => {
      const present = presence[member]?.[n * units + unit] === 1;
      numbers.set(`${node.start},${node.end}`, present ? next : -1);
      next += 1;
    });
  });
  const adds: [number, number][] = [];
  const visit = (start: number, end: number): number => {
    const number = numbers.get(`${start},${end}`);
    if (number !== undefined) return number;
    if (end - start < 2) throw new RangeError(`no rank of the group has computed leaf ${start} of ${leaves}`);
    const middle = splitPoint(start, end);
    const left = visit(start, middle);
    const right = visit(middle, end);
    if (left < 0) return right;
    if (right < 0) return left;
    adds.push([left, right]);
    return left;
  };
  return { root: visit(0, leaves), adds };
}

/** Finishes the tree for the runs of a piece and writes the sums into the results' memory. */
function combine(
  runs: readonly Run[],
  nodes: readonly (readonly LeafRange[])[],
  presence: readonly Uint8Array[],
  units: number,
  own: OwnNodes['values'],
  received: readonly Float32Array[],
  me: number,
  plans: readonly MergePlan[],
  results: readonly (readonly Float32Array[] | null)[],
): void {
  // Where the next run of each partial sum begins in the message that carries it.
  const cursors: number[] = [];
  nodes.forEach((list, member) => {
    let cursor = 0;
    list.forEach((_, n) => {
      cursors.push(cursor);
      for (const run of runs) if (presence[member]?.[n * units + run.unit] === 1) cursor += run.length;
    });
  });
  const views: (Float32Array | null)[] = new Array(cursors.length).fill(null);
  for (const run of runs) {
    const { start, length, unit } = run;
    const plan = plans[unit] as MergePlan;
    if (plan.root < 0) continue;
    let number = 0;
    nodes.forEach((list, member) => {
      list.forEach((_, n) => {
        views[number] = null;
        if (presence[member]?.[n * units + unit] === 1) {
          if (member === me) views[number] = own[n]?.[unit]?.[run.tensor]?.subarray(start, start + length) ?? null;
          else {
            const cursor = cursors[number] as number;
            views[number] = (received[member] as Float32Array).subarray(cursor, cursor + length);
            cursors[number] = cursor + length;
          }
        }
        number += 1;
      });
    });
    const sums = results[unit] as readonly Float32Array[];
    const out = (sums[run.tensor] as Float32Array).subarray(start, start + length);
    const last = plan.adds.length - 1;
    plan.adds.forEach(([left, right], i) => {
      const target = views[left] as Float32Array;
      addArrays(i === last ? out : target, target, views[right] as Float32Array);
    });
    if (last < 0) copyUnlessSame(out, views[plan.root] as Float32Array);
  }
}

/** `out = left + right` in float32; `out` may be either argument. */
export function addArrays(out: Float32Array, left: Float32Array, right: Float32Array): void {
  const length = out.length;
  if (left.length !== length || right.length !== length) throw new RangeError('addArrays needs arrays of one length');
  for (let i = 0; i < length; i++) out[i] = (left[i] as number) + (right[i] as number);
}

function copyUnlessSame(out: Float32Array, from: Float32Array): void {
  if (out.buffer !== from.buffer || out.byteOffset !== from.byteOffset) out.set(from);
}

function pack(runs: readonly Run[], values: OwnNodes['values']): Float32Array {
  let size = 0;
  for (const node of values) for (const run of runs) if (node[run.unit]) size += run.length;
  const packed = scratch.take(size);
  let offset = 0;
  for (const node of values)
    for (const { unit, tensor, start, length } of runs) {
      const array = node[unit]?.[tensor];
      if (!array) continue;
      packed.set(array.subarray(start, start + length), offset);
      offset += length;
    }
  return packed;
}

function packResults(runs: readonly Run[], results: readonly (readonly Float32Array[] | null)[]): Float32Array {
  return pack(runs, [results]);
}

function unpack(
  runs: readonly Run[],
  packed: Float32Array,
  results: readonly (readonly Float32Array[] | null)[],
): void {
  let offset = 0;
  for (const { unit, tensor, start, length } of runs) {
    const array = results[unit]?.[tensor];
    if (!array) continue;
    array.set(packed.subarray(offset, offset + length), start);
    offset += length;
  }
}

function copyOf(array: Float32Array): Float32Array {
  const copy = scratch.take(array.length);
  copy.set(array);
  return copy;
}

function allocateUnit(unit: TreeUnit): Float32Array[] {
  return unit.sizes.map((size) => new Float32Array(size));
}

function float32vector(data: Float32Array): HostTensor {
  return float32(data, [data.length]);
}

/** A copy of the flags: the message's buffer is given away, the flags are needed for every peer. */
function bytes(data: Uint8Array): HostTensor {
  return { dtype: 'uint8', shape: [data.length], data: data.slice() };
}
