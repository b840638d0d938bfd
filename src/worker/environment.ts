import type { DeviceTensor, PhasedFunction, SlotId } from '../engine/index.ts';
import type { PhasePlan } from './phase-plan.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

interface Entry {
  readonly cell: Cell;
  uses: number;
}

/**
 * The values of a phased function's slots for one microbatch. A value is let go when everyone who needs it has had it.
 * Parameters and state are not kept here: `shared` finds them, so that a step always sees the current ones.
 */
export class Environment {
  readonly #space: TensorSpace;
  readonly #plan: PhasePlan;
  readonly #shared: (slot: SlotId) => DeviceTensor | undefined;
  readonly #entries = new Map<SlotId, Entry>();

  constructor(space: TensorSpace, plan: PhasePlan, shared: (slot: SlotId) => DeviceTensor | undefined) {
    this.#space = space;
    this.#plan = plan;
    this.#shared = shared;
  }

  get phased(): PhasedFunction {
    return this.#plan.phased;
  }

  /** Puts a value into a slot, taking over the caller's reference. */
  set(slot: SlotId, cell: Cell): void {
    const uses = this.#plan.uses.get(slot) ?? 0;
    if (uses === 0) {
      this.#space.release(cell);
      return;
    }
    const known = this.#entries.get(slot);
    if (known) this.#space.release(known.cell);
    this.#entries.set(slot, { cell, uses });
  }

  /** Whether a slot has a value that someone still needs. */
  has(slot: SlotId): boolean {
    return this.#entries.has(slot);
  }

  /** Takes one use of a slot's value; the caller gets a reference that it must release. */
  consume(slot: SlotId): Cell {
    const entry = this.#entries.get(slot);
    if (!entry) {
      const shared = this.#shared(slot);
      if (shared) return this.#space.borrow(shared);
      throw new Error(`slot ${slot} has no value: its phase has not run, or its value was taken too often`);
    }
    entry.uses -= 1;
    if (entry.uses > 0) return this.#space.retain(entry.cell);
    this.#entries.delete(slot);
    return entry.cell;
  }

  /** Runs a phase: reads its slots, writes its outputs into buffers of the pool. */
  async run(index: number): Promise<void> {
    const phase = this.#plan.phased.phases[index];
    if (!phase) throw new RangeError(`there is no phase ${index}`);
    const cells = phase.reads.map((slot) => this.consume(slot));
    const outputs = await this.#space.run(
      phase.executable,
      cells.map((cell) => cell.tensor),
    );
    for (const cell of cells) this.#space.release(cell);
    phase.writes.forEach((slot, i) => {
      this.set(slot, this.#space.own(outputs[i] as DeviceTensor));
    });
  }

  /** Lets everything go. */
  clear(): void {
    for (const { cell } of this.#entries.values()) this.#space.release(cell);
    this.#entries.clear();
  }
}
