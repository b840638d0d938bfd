import { type LeafRange, type Merge, TreeAccumulator } from '../comm/index.ts';
import type { CompiledUpdates } from './compiled.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/** A partial sum over a range of leaves: one tensor for each gradient. */
export interface PartialSum {
  readonly range: LeafRange;
  readonly value: readonly Cell[];
}

/**
 * Adds the gradients (and state contributions) of a group of parameters up over microbatches: in the canonical tree
 * (`exact`), or as they come (`fast`, where `leaves` is 1 and every microbatch counts as leaf 0: one buffer instead of
 * log2 of them, and an order that depends on the mesh).
 */
export class GradientSum {
  readonly #space: TensorSpace;
  readonly #compiled: CompiledUpdates;
  readonly #tree: TreeAccumulator<readonly Cell[]>;
  readonly #exact: boolean;
  readonly #first: number;
  /** Leaves that this rank computes, and those that have come. */
  readonly #own: LeafRange;
  #added = 0;
  #running: readonly Cell[] | null = null;

  /**
   * @param own leaves that this rank computes
   * @param first microbatch that is leaf 0
   */
  constructor(
    space: TensorSpace,
    compiled: CompiledUpdates,
    leaves: number,
    own: LeafRange,
    exact: boolean,
    first = 0,
  ) {
    this.#space = space;
    this.#compiled = compiled;
    this.#tree = new TreeAccumulator(leaves);
    this.#exact = exact;
    this.#own = own;
    this.#first = first;
  }

  /** Adds a microbatch's gradients, taking over the references; null if it has none (an expert without tokens). */
  async add(microbatch: number, value: readonly Cell[] | null): Promise<void> {
    if (!this.#exact) {
      // (How many sums come is not known: rows of several microbatches may be one.)
      if (value) this.#running = this.#running ? await this.#sum(this.#running, value) : value;
      return;
    }
    const leaf = microbatch - this.#first;
    let merge: Merge<readonly Cell[]> | null = this.#tree.offer({ start: leaf, end: leaf + 1 }, value);
    while (merge) merge = this.#tree.offer(merge.parent, await this.#sum(merge.left, merge.right));
    this.#added += 1;
  }

  /** Whether all leaves of this rank have come, so that nothing will be added any more. Never true in `fast`. */
  get complete(): boolean {
    return this.#exact && this.#added === this.#own.end - this.#own.start;
  }

  /** What this rank has so far: the tree's maximal nodes, or in `fast` one sum that counts as leaf `fastLeaf`. */
  partial(fastLeaf: number): PartialSum[] {
    if (this.#exact) return this.#tree.nodes();
    return this.#running ? [{ range: { start: fastLeaf, end: fastLeaf + 1 }, value: this.#running }] : [];
  }

  /** The sum of all leaves when this rank has computed them all; null if every leaf was absent. */
  total(): readonly Cell[] | null {
    return this.#exact ? this.#tree.total() : this.#running;
  }

  /** Forgets everything without releasing it: the caller has taken the sums over. */
  reset(): void {
    this.#tree.clear();
    this.#running = null;
    this.#added = 0;
  }

  /** Releases what is held. */
  clear(): void {
    for (const { value } of this.partial(0)) for (const cell of value) this.#space.release(cell);
    this.reset();
  }

  async #sum(left: readonly Cell[], right: readonly Cell[]): Promise<readonly Cell[]> {
    const executable = await this.#compiled.once(this, 'add', () =>
      this.#compiled.add(left.map((cell) => cell.tensor)),
    );
    const inputs = [...left, ...right];
    const sums = await this.#space.run(
      executable,
      inputs.map((cell) => cell.tensor),
    );
    for (const cell of inputs) this.#space.release(cell);
    return sums.map((tensor) => this.#space.own(tensor));
  }
}
