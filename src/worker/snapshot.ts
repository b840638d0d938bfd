import type { Engine } from '../engine/index.ts';
import type { Program } from '../plan/index.ts';
import { type HeldTensor, shardFile, sharedModelTensor } from './held-tensors.ts';
import { digestOf } from './snapshot-digest.ts';
import {
  layOut,
  SLOT_FIELDS,
  SLOT_USE,
  SNAPSHOT_SLOTS,
  type SnapshotShare,
  type SnapshotTaken,
  tensorBytes,
} from './snapshot-layout.ts';

const FIELDS = SLOT_FIELDS.length;
const STEP = SLOT_FIELDS.indexOf('step');
const USE = SLOT_FIELDS.indexOf('use');

/**
 * The snapshots of one rank, as the thread that computes sees them: copies of all that it holds from step to step, in
 * shared memory, from which other threads read at leisure while it computes on. What is being read is never written to,
 * and nothing waits or queues: where no memory is free, a snapshot is left out.
 */
export class SnapshotRing {
  readonly #engine: Engine;
  readonly #held: readonly HeldTensor[];
  readonly #flags: Int32Array;
  /** The newest ones that are there to stay while there is other memory. */
  readonly #keep: number;
  /** By slot, then tensor. */
  readonly #views: readonly (readonly Float32Array[])[];
  /** What other threads are given. */
  readonly share: SnapshotShare;

  /** Reserves memory for `count` snapshots, which is spent only as slots are first written to. */
  constructor(engine: Engine, held: readonly HeldTensor[], program: Program, count = SNAPSHOT_SLOTS) {
    this.#keep = Math.min(2, count - 1);
    this.#engine = engine;
    this.#held = held;
    const { offsets, bytes } = layOut(held.map(({ shape }) => shape));
    const tensors = held.map(({ name, shape, writes }, i) => ({ name, shape, offset: offsets[i] as number, writes }));
    const slots = Array.from({ length: count }, () => new SharedArrayBuffer(bytes));
    const flags = new SharedArrayBuffer(count * FIELDS * Int32Array.BYTES_PER_ELEMENT);
    this.#flags = new Int32Array(flags);
    this.#views = slots.map((slot) =>
      tensors.map(({ shape, offset }) => new Float32Array(slot, offset, tensorBytes(shape) / 4)),
    );
    this.share = { rank: program.rank, shard: shardFile(program), tensors, bytes, flags, slots };
  }

  /**
   * Copies everything as it is after `step` completed steps. Returns the copy that is there already, if one is; null if
   * all memory is being read, but for the newest snapshot, which is not given up for one that is only about to be.
   */
  async take(step: number): Promise<SnapshotTaken | null> {
    const slots = readFlags(this.#flags);
    const ready = slots.filter(({ use }) => use >= SLOT_USE.ready).sort((a, b) => b.step - a.step);
    const there = ready.find((slot) => slot.step === step);
    if (there) return { step, slot: there.slot };
    const free = slots.filter(({ use }) => use === SLOT_USE.free);
    for (const { slot, use } of [
      ...ready.slice(this.#keep).reverse(),
      ...free,
      // The newest is never given up where one is to be kept.
      ...ready.slice(1, this.#keep),
    ]) {
      if (use > SLOT_USE.ready) continue;
      const at = slot * FIELDS + USE;
      // Whoever has begun to read it since has it.
      if (Atomics.compareExchange(this.#flags, at, use, SLOT_USE.writing) !== use) continue;
      try {
        await this.#copy(this.#views[slot] as readonly Float32Array[]);
      } catch (error) {
        Atomics.store(this.#flags, at, SLOT_USE.free);
        throw error;
      }
      Atomics.store(this.#flags, slot * FIELDS + STEP, step);
      Atomics.store(this.#flags, at, SLOT_USE.ready);
      return { step, slot };
    }
    return null;
  }

  /**
   * Digests of a copy's parameters and state that replicas have in common, by name, to be asked for before the next is taken.
   * (Optimizer slots that differ show in the parameters a step later, and training waits for this.)
   */
  digests({ slot }: SnapshotTaken): Record<string, string> {
    const views = this.#views[slot] as readonly Float32Array[];
    const named = this.#held.flatMap(({ name }, i): [string, string][] =>
      sharedModelTensor(name) ? [[name, digestOf(views[i] as Float32Array)]] : [],
    );
    return Object.fromEntries(named);
  }

  async #copy(views: readonly Float32Array[]): Promise<void> {
    for (const [i, held] of this.#held.entries()) {
      const tensor = held.tensor();
      const { data } = this.#engine.host(tensor) ?? (await this.#engine.download(tensor));
      (views[i] as Float32Array).set(data as Float32Array);
    }
  }
}

/** A snapshot that is being read: it stays as it is until `release`. */
export interface SnapshotView extends SnapshotTaken {
  /** All of it; tensors lie where `SnapshotShare.tensors` says. Shared memory. */
  readonly bytes: Uint8Array;
  /** One tensor's bytes; null if the rank does not hold it. */
  tensor(name: string): Uint8Array | null;
  /** Lets the memory be used again. More than once does nothing. */
  release(): void;
}

/** The snapshots of one rank, as any other thread sees them: also after the thread that took them has ended. */
export class SnapshotShelf {
  readonly share: SnapshotShare;
  readonly #flags: Int32Array;
  readonly #index: ReadonlyMap<string, SnapshotShare['tensors'][number]>;

  constructor(share: SnapshotShare) {
    this.share = share;
    this.#flags = new Int32Array(share.flags);
    this.#index = new Map(share.tensors.map((tensor) => [tensor.name, tensor]));
  }

  /** Completed steps of the snapshots that are whole, newest first. */
  steps(): number[] {
    return readFlags(this.#flags)
      .filter(({ use }) => use >= SLOT_USE.ready)
      .map(({ step }) => step)
      .sort((a, b) => b - a);
  }

  /** Takes hold of the snapshot of a step; null if it is not there, or no more. */
  acquire(step: number): SnapshotView | null {
    for (const { slot } of readFlags(this.#flags)) {
      const at = slot * FIELDS + USE;
      let use = Atomics.load(this.#flags, at);
      while (use >= SLOT_USE.ready) {
        const found = Atomics.compareExchange(this.#flags, at, use, use + 1);
        if (found === use) {
          // Only now is it sure to stay what it is.
          if (Atomics.load(this.#flags, slot * FIELDS + STEP) === step) return this.#view(step, slot);
          Atomics.sub(this.#flags, at, 1);
          break;
        }
        use = found;
      }
    }
    return null;
  }

  #view(step: number, slot: number): SnapshotView {
    const buffer = this.share.slots[slot] as SharedArrayBuffer;
    let held = true;
    return {
      step,
      slot,
      bytes: new Uint8Array(buffer),
      tensor: (name) => {
        const found = this.#index.get(name);
        return found ? new Uint8Array(buffer, found.offset, tensorBytes(found.shape)) : null;
      },
      release: () => {
        if (held) Atomics.sub(this.#flags, slot * FIELDS + USE, 1);
        held = false;
      },
    };
  }
}

function readFlags(flags: Int32Array): { readonly slot: number; readonly use: number; readonly step: number }[] {
  return Array.from({ length: flags.length / FIELDS }, (_, slot) => ({
    slot,
    use: Atomics.load(flags, slot * FIELDS + USE),
    step: Atomics.load(flags, slot * FIELDS + STEP),
  }));
}
