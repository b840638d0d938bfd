import type { DeviceTensor, Engine, Executable, Signature } from '../engine/index.ts';
import { allocate, type HostTensor, sizeOf } from '../tensor/index.ts';

/**
 * A tensor that several places may hold (an activation is an output of one layer and an input of the next). When the
 * last one lets go, its memory goes back to the pool.
 */
export interface Cell {
  readonly tensor: DeviceTensor;
  /** False for memory that belongs to someone else (a parameter, a constant): never recycled, given away or overwritten. */
  readonly owned: boolean;
  refs: number;
}

/**
 * Tensors of one rank: a pool of output buffers by signature (writing into fresh memory costs 0.4-1 ms a megabyte) and
 * the ways in and out of host memory.
 */
export class TensorSpace {
  readonly engine: Engine;
  readonly #free = new Map<string, DeviceTensor[]>();
  /** How often a buffer of a signature was asked for when the pool had none: so many are worth keeping, and no more. */
  readonly #missed = new Map<string, number>();
  readonly #constants = new Map<string, Cell>();

  readonly #defers: boolean;

  /** @param defers whether small runs may wait until their results are looked at */
  constructor(engine: Engine, defers = true) {
    this.engine = engine;
    this.#defers = defers;
  }

  /** A cell with one reference, for a tensor that nobody else has. */
  own(tensor: DeviceTensor): Cell {
    return { tensor, owned: true, refs: 1 };
  }

  /** A cell for memory that belongs to someone else. */
  borrow(tensor: DeviceTensor): Cell {
    return { tensor, owned: false, refs: 1 };
  }

  retain(cell: Cell): Cell {
    cell.refs += 1;
    return cell;
  }

  release(cell: Cell): void {
    cell.refs -= 1;
    if (cell.refs < 0) throw new Error(`a ${keyOf(cell.tensor)} tensor was released more often than it was held`);
    if (cell.refs === 0 && cell.owned) this.give(cell.tensor);
  }

  /** A buffer of the pool, or null. */
  take(signature: Signature): DeviceTensor | null {
    const key = keyOf(signature);
    const found = this.#free.get(key)?.pop();
    if (found) return found;
    this.#missed.set(key, (this.#missed.get(key) ?? 0) + 1);
    return null;
  }

  /**
   * Puts a buffer that nobody holds into the pool. What is not asked for goes back to the engine, since it would pile up:
   * what comes from outside in every step (batches, activations of another stage), and results of runs that were put off,
   * to which the engine gives memory itself. It takes theirs for the next ones.
   */
  give(tensor: DeviceTensor): void {
    const key = keyOf(tensor);
    const list = this.#free.get(key) ?? [];
    // What runs that wait still read must not be handed out again.
    if (list.length >= (this.#missed.get(key) ?? 0) || this.engine.inUse?.(tensor)) {
      this.engine.release(tensor, true);
      return;
    }
    list.push(tensor);
    this.#free.set(key, list);
  }

  /** Runs an executable, into buffers of the pool if it runs at once. */
  async run(executable: Executable, inputs: readonly DeviceTensor[]): Promise<DeviceTensor[]> {
    const deferred = this.#defers ? executable.defer?.(inputs) : null;
    return deferred ?? this.runNow(executable, inputs);
  }

  /** Runs an executable at once, into buffers of the pool. */
  runNow(executable: Executable, inputs: readonly DeviceTensor[]): Promise<DeviceTensor[]> {
    return executable.run(
      inputs,
      executable.outputs.map((signature) => this.take(signature)),
    );
  }

  /** Takes a host tensor over: on a CPU its memory becomes the tensor's. */
  upload(tensor: HostTensor): Cell {
    return this.own(this.engine.upload(tensor));
  }

  /** Reads a value; on a CPU this is its memory. */
  read(tensor: DeviceTensor): HostTensor | Promise<HostTensor> {
    return this.engine.host(tensor) ?? this.engine.download(tensor);
  }

  /** Makes a float32 tensor whose content `fill` writes; what the memory held before is undefined. */
  make(shape: readonly number[], fill: (data: Float32Array) => void): Cell {
    const signature: Signature = { dtype: 'float32', shape };
    const pooled = this.take(signature);
    const host = pooled && this.engine.host(pooled);
    if (pooled && host) {
      fill(host.data as Float32Array);
      return this.own(pooled);
    }
    if (pooled) this.give(pooled);
    const data = new Float32Array(sizeOf(shape));
    fill(data);
    return this.own(this.engine.upload({ dtype: 'float32', shape, data }));
  }

  /** A shared tensor of zeros. */
  zeros(signature: Signature): Cell {
    const key = keyOf(signature);
    let cell = this.#constants.get(key);
    if (!cell) {
      const { dtype, shape } = signature;
      cell = this.borrow(this.engine.upload({ dtype, shape, data: allocate(dtype, sizeOf(shape)) }));
      this.#constants.set(key, cell);
    }
    return this.retain(cell);
  }

  /** Gives all pooled buffers back to the engine. */
  clear(): void {
    for (const list of this.#free.values()) for (const tensor of list) this.engine.release(tensor, true);
    this.#free.clear();
    for (const cell of this.#constants.values()) this.engine.release(cell.tensor);
    this.#constants.clear();
  }
}

/** Handles and signatures live long and are asked for often: their keys are made once. */
const keys = new WeakMap<Signature, string>();

function keyOf(signature: Signature): string {
  let key = keys.get(signature);
  if (key === undefined) {
    key = `${signature.dtype}[${signature.shape.join(',')}]`;
    keys.set(signature, key);
  }
  return key;
}
