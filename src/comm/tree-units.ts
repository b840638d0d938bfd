import { ADD, type Postfix } from './adder.ts';
import type { Run } from './flat-layout.ts';
import { type LeafRange, splitPoint } from './tree.ts';

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
  /** The node of the tree that is finished, which the ranges cover. Default all leaves. */
  readonly root?: LeafRange;
  readonly units: readonly TreeUnit[];
}

/** Options of reductions. */
export interface TreeReductionOptions {
  /** Elements a message may hold per tree node. Default 2^17: half a megabyte, which stays in a core's cache. */
  readonly pieceElements?: number;
  /**
   * Up to this many elements, every rank of an all-reduce adds everything up itself: one round of messages instead of
   * two. Default 2^14.
   */
  readonly directElements?: number;
}

/** A rank's own partial sums, by node and unit. */
export interface OwnNodes {
  /** `[node][unit]`: 1 where a partial sum exists. */
  readonly presence: Uint8Array;
  /** By node, then unit. */
  readonly values: readonly (readonly (readonly Float32Array[] | null)[])[];
  /** The first partial sum of a unit that exists, or null. */
  first(unit: number): readonly Float32Array[] | null;
}

/**
 * Arranges partial sums by node.
 * @throws RangeError if they are not those of `nodes`, or a tensor is not as long as was announced
 */
export function ownNodes(nodes: readonly LeafRange[], units: readonly TreeUnit[], tag: string): OwnNodes {
  const presence = new Uint8Array(nodes.length * units.length);
  const values = nodes.map((node, n) =>
    units.map((unit, u) => {
      const held = unit.nodes.find(({ range }) => range.start === node.start && range.end === node.end);
      if (!held) return null;
      held.value.forEach((array, i) => {
        if (array.length !== unit.sizes[i])
          throw new RangeError(
            `reduction "${tag}": tensor ${i} of unit ${u} has ${array.length} elements here, ${unit.sizes[i]} were announced`,
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
        `reduction "${tag}": unit ${u} holds partial sums of ${unit.nodes.map(({ range }) => `[${range.start}, ${range.end})`).join(' ')}, ` +
          `but this rank's nodes are ${nodes.map((node) => `[${node.start}, ${node.end})`).join(' ')}`,
      );
  });
  return { presence, values, first: (unit) => values.find((node) => node[unit])?.[unit] ?? null };
}

/**
 * The sum that finishes a node of the tree for one unit; null where every leaf is absent. Partial sums are numbered over
 * all members, one after another.
 * @param nodes of each member
 * @param presence flags of each member, `[node][unit]`
 */
export function finishingSum(
  root: LeafRange,
  nodes: readonly (readonly LeafRange[])[],
  presence: readonly Uint8Array[],
  unit: number,
  units: number,
): Postfix | null {
  const numbers = new Map<string, number>();
  let next = 0;
  nodes.forEach((list, member) => {
    list.forEach((node, n) => {
      const present = presence[member]?.[n * units + unit] === 1;
      numbers.set(`${node.start},${node.end}`, present ? next : -1);
      next += 1;
    });
  });
  const visit = (start: number, end: number): Postfix => {
    const number = numbers.get(`${start},${end}`);
    if (number !== undefined) return number < 0 ? [] : [number];
    if (end - start < 2)
      throw new RangeError(`no rank of the group has computed leaf ${start} of [${root.start}, ${root.end})`);
    const middle = splitPoint(start, end);
    const left = visit(start, middle);
    const right = visit(middle, end);
    return left.length > 0 && right.length > 0 ? [...left, ...right, ADD] : [...left, ...right];
  };
  const order = visit(root.start, root.end);
  return order.length > 0 ? order : null;
}

/**
 * Memory for the sums, by unit and tensor: that of a rank's first partial sum becomes the sum's, and what it had none of is
 * made. Units that are absent everywhere are null, and tensors that the rank neither had nor wants.
 * @param wanted stretches that the rank is to have; null for all
 */
export function sumMemory(
  units: readonly TreeUnit[],
  orders: readonly (Postfix | null)[],
  own: OwnNodes,
  wanted: readonly Run[] | null,
): ((Float32Array | null)[] | null)[] {
  const names = wanted && new Set(wanted.map(({ unit, tensor }) => `${unit} ${tensor}`));
  return units.map(({ sizes }, unit) => {
    if (orders[unit] === null) return null;
    const first = own.first(unit);
    const made = (size: number, tensor: number) =>
      names === null || names.has(`${unit} ${tensor}`) ? new Float32Array(size) : null;
    return sizes.map((size, tensor) => first?.[tensor] ?? made(size, tensor));
  });
}
