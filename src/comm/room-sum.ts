import { ADD, type Postfix } from './adder.ts';
import type { Kernels } from './sum-kernel.ts';

/** Elements that are added at a time where there are intermediate sums, at most: a few such stretches lie in a core's first cache. */
const STRETCH = 2048;

/** A sum as a tree: the number of an operand, or two sums. */
type Term = number | readonly [Term, Term];

/** Where a value is: the number of an operand, or -1, -2, …: an intermediate sum. */
type Place = number;

/** One call of a kernel, for two values or four. */
interface Step {
  /** Null for the place that the whole sum is to have. */
  readonly into: Place | null;
  readonly from: readonly Place[];
}

/** A sum in the order of a `Postfix`, as calls of kernels. */
export interface SumPlan {
  /** How many values are added up. */
  readonly operands: number;
  readonly steps: readonly Step[];
  /** Intermediate sums that there are at once. */
  readonly laps: number;
}

/** Plans a sum. A sum of two sums is made in one pass over all four values, whose sums are rounded one by one all the same. */
export function planSum(order: Postfix): SumPlan {
  const stack: Term[] = [];
  for (const item of order) stack.push(item === ADD ? (stack.splice(-2) as [Term, Term]) : item);
  const steps: Step[] = [];
  let [held, laps] = [0, 0];
  const placeOf = (term: Term): Place => {
    if (typeof term === 'number') return term;
    const before = held;
    held += 1;
    laps = Math.max(laps, held);
    const place = -held;
    make(term, place);
    // (What it was made of is not needed any more.)
    held = before + 1;
    return place;
  };
  const make = ([left, right]: readonly [Term, Term], into: Place | null): void => {
    const terms = typeof left === 'number' || typeof right === 'number' ? [left, right] : [...left, ...right];
    steps.push({ from: terms.map(placeOf), into });
  };
  const [whole] = stack;
  if (typeof whole === 'object') make(whole, null);
  return { operands: order.filter((item) => item !== ADD).length, steps, laps };
}

/**
 * Sums arrays where they lie, in a memory that WebAssembly works on. The arrays are left as they are, but for the one whose
 * place the sum takes: what is not written to need not go from one core's cache to another's.
 * @param addressOf where an operand is
 * @param target where the sum is to be; one of the operands' places, for a sum of one
 * @param laps where intermediate sums may be: so many bytes from an address on, which a core's first cache holds
 * @throws RangeError if there are too many of these at once
 */
export function sumInPlace(
  { add, addFour }: Kernels,
  { steps, laps }: SumPlan,
  addressOf: (operand: number) => number,
  target: number,
  length: number,
  { lapAt, lapBytes }: { readonly lapAt: number; readonly lapBytes: number },
): void {
  const stretch = laps > 0 ? Math.min(STRETCH, Math.floor(lapBytes / (64 * laps)) * 16) : length;
  if (stretch < 16 && laps > 0)
    throw new RangeError(`there is no room for ${laps} intermediate sums in ${lapBytes} bytes`);
  for (let from = 0; from < length; from += stretch) {
    const bytes = 4 * Math.min(stretch, length - from);
    const at = (place: Place): number => (place < 0 ? lapAt + 4 * stretch * (-1 - place) : addressOf(place) + 4 * from);
    for (const step of steps) {
      const [a, b, c, d] = step.from as [Place, Place, Place?, Place?];
      const into = step.into === null ? target + 4 * from : at(step.into);
      if (c === undefined || d === undefined) add(into, at(a), at(b), bytes);
      else addFour(into, at(a), at(b), at(c), at(d), bytes);
    }
  }
}
