import { type Arrivals, type Group, memberIndex, postAllToAll, scratch, type Transport } from '../comm/index.ts';
import { expertMember } from '../plan/index.ts';
import { float32, type HostTensor, int32 } from '../tensor/index.ts';
import type { ExpertRuntime, ExpertSource } from './expert-runtime.ts';
import type { Cell, TensorSpace } from './tensor-space.ts';

/**
 * One microbatch's rows on their way to the experts and back, for one expert call. Without sharding the experts are
 * here, and `local` runs them in place. With sharding, rows are sent out and arrive, are run, and results are sent back
 * and return; the peers of the group do the same with their own microbatches of the same round. Nothing waits between
 * sending and the arrival of what the peers sent, so that another microbatch's work fits in between.
 */
export class ExpertExchange {
  readonly #space: TensorSpace;
  readonly #runtime: ExpertRuntime;
  readonly #microbatch: number;
  /** Rows for each expert, of this rank's microbatch. */
  readonly #counts: Int32Array;
  readonly #shape: readonly [rows: number, width: number];
  /** Rows (or cotangents) of this rank's own microbatch while they are out. */
  #own: Cell | null = null;
  /** This rank's place in the group. */
  #me = 0;
  #members = 1;
  /** Where the results are put together, once rows have arrived: the own experts write theirs there at once. */
  #result: { readonly cell: Cell; readonly data: Float32Array } | null = null;
  /** Rows for the experts here, by member; the own ones are there before the others have come. */
  #sources: ExpertSource[] = [];
  /** What goes to the own experts. */
  #message: readonly HostTensor[] = [];
  #arrivals: Arrivals | null = null;
  #returning = false;

  constructor(
    space: TensorSpace,
    runtime: ExpertRuntime,
    microbatch: number,
    counts: Int32Array,
    shape: readonly [number, number],
  ) {
    this.#space = space;
    this.#runtime = runtime;
    this.#microbatch = microbatch;
    this.#counts = counts;
    this.#shape = shape;
    const total = counts.reduce((sum, count) => sum + count, 0);
    if (total > shape[0])
      throw new Error(`the counts of an expert call sum to ${total}, but there are only ${shape[0]} rows`);
  }

  /** Runs `run` with this microbatch's rows and returns what it wrote, as a tensor like the rows'. */
  async local(rows: Cell, run: (source: ExpertSource) => Promise<void>): Promise<Cell> {
    const data = await this.#read(rows);
    if (this.#space.engine.host(rows.tensor) === null) {
      // On a device the results are put together on the host and uploaded at once.
      const results = new Float32Array(this.#shape[0] * this.#shape[1]);
      await run(this.#source(data, results));
      this.#space.release(rows);
      return this.#space.upload(float32(results, this.#shape));
    }
    const result = this.#space.make(this.#shape, (values) => values.fill(0, this.#used()));
    await run(this.#source(data, await this.#read(result)));
    this.#space.release(rows);
    return result;
  }

  /** Sends each member of the group the rows (or cotangents) of its experts. */
  async send(transport: Transport, group: Group, tag: string, rows: Cell): Promise<void> {
    const me = memberIndex(transport, group);
    this.#me = me;
    const members = group.ranks.length;
    const data = await this.#read(rows);
    this.#own = rows;
    let at = 0;
    const outgoing = group.ranks.map((_, member): HostTensor[] => {
      const counts = this.#countsOf(member, members);
      const size = sum(counts) * this.#shape[1];
      const part = data.subarray(at, at + size);
      at += size;
      const header = int32(Int32Array.of(this.#microbatch, ...counts), [counts.length + 1]);
      return [header, float32(member === me ? part : scratchCopy(part), [size])];
    });
    this.#message = outgoing[me] as HostTensor[];
    this.#members = members;
    this.#arrivals = await postAllToAll(transport, group, tag, outgoing, { transfer: true });
  }

  /** The own rows for the experts here, which need not be waited for. */
  own(): ExpertSource {
    const [, values] = this.#message as readonly [HostTensor, HostTensor];
    const results = this.#makeResult(this.#me, this.#members) ?? scratch.take(values.data.length);
    const source = sourceOf(this.#message, results);
    this.#sources[this.#me] = source;
    return source;
  }

  /** Waits for the rows of the other members for the experts here. After `own`. */
  async arrive(): Promise<readonly ExpertSource[]> {
    const incoming = await this.#wait();
    for (const [member, message] of incoming.entries())
      if (member !== this.#me)
        this.#sources[member] = sourceOf(message, scratch.take(message[1]?.data.length as number));
    return this.#sources.filter((_, member) => member !== this.#me);
  }

  /** Memory for all results; returns the part that is for those of the own experts. Null if they lie on a device. */
  #makeResult(me: number, members: number): Float32Array | null {
    if (!this.#own || this.#space.engine.host(this.#own.tensor) === null) return null;
    let data: Float32Array | null = null;
    const cell = this.#space.make(this.#shape, (values) => {
      data = values.fill(0, this.#used());
    });
    const result = { cell, data: data as unknown as Float32Array };
    this.#result = result;
    const before = Array.from({ length: me }, (_, member) => sum(this.#countsOf(member, members)));
    const start = sum(before) * this.#shape[1];
    return result.data.subarray(start, start + sum(this.#countsOf(me, members)) * this.#shape[1]);
  }

  /** Sends the results back to whose rows they are of. */
  async sendBack(transport: Transport, group: Group, tag: string): Promise<void> {
    const me = memberIndex(transport, group);
    // (What came from others is no longer needed; the own rows are a part of their tensor.)
    for (const [member, { rows }] of this.#sources.entries()) if (member !== me) scratch.give(rows);
    const outgoing = this.#sources.map(({ results }) => [float32(results, [results.length])]);
    this.#sources = [];
    this.#arrivals = await postAllToAll(transport, group, tag, outgoing, { transfer: true });
    this.#returning = true;
  }

  /** Whether results are on their way back and have not been put together. */
  get returning(): boolean {
    return this.#returning;
  }

  /** Waits for the results of the own rows and puts them together. */
  async putTogether(): Promise<Cell> {
    const incoming = await this.#wait();
    this.#returning = false;
    if (this.#own) this.#space.release(this.#own);
    this.#own = null;
    const result = this.#result;
    this.#result = null;
    const put = (values: Float32Array): void => {
      let at = 0;
      for (const [part] of incoming) {
        const results = part?.data as Float32Array;
        // (The own experts have written theirs there.)
        if (results.buffer !== values.buffer) values.set(results, at);
        at += results.length;
        scratch.give(results);
      }
      if (!result) values.fill(0, at);
    };
    if (!result) return this.#space.make(this.#shape, put);
    put(result.data);
    return result.cell;
  }

  #wait(): ReturnType<Arrivals> {
    const arrivals = this.#arrivals;
    if (!arrivals) throw new Error(`nothing has been sent for microbatch ${this.#microbatch} that could be waited for`);
    this.#arrivals = null;
    return arrivals();
  }

  get runtime(): ExpertRuntime {
    return this.#runtime;
  }

  /** The expert that a row was sent to; null for a row behind the last one that was sent. */
  expertOfRow(row: number): number | null {
    let end = 0;
    for (const [expert, count] of this.#counts.entries()) {
      end += count;
      if (row < end) return expert;
    }
    return null;
  }

  clear(): void {
    if (this.#own) this.#space.release(this.#own);
    this.#own = null;
    if (this.#result) this.#space.release(this.#result.cell);
    this.#result = null;
    this.#sources = [];
    this.#message = [];
  }

  #source(rows: Float32Array, results: Float32Array): ExpertSource {
    return { microbatch: this.#microbatch, counts: this.#counts, rows, results };
  }

  #countsOf(member: number, members: number): number[] {
    const experts = this.#counts.length;
    return [...this.#counts].filter((_, expert) => expertMember(expert, experts, members) === member);
  }

  /** Elements of the rows that belong to experts. */
  #used(): number {
    return sum([...this.#counts]) * this.#shape[1];
  }

  async #read(cell: Cell): Promise<Float32Array> {
    return (await this.#space.read(cell.tensor)).data as Float32Array;
  }
}

/** Rows of a message for the experts here, and where their results go. */
function sourceOf(message: readonly HostTensor[], results: Float32Array): ExpertSource {
  const [header, values] = message as readonly [HostTensor, HostTensor];
  const [microbatch, ...counts] = header.data as Int32Array;
  return {
    microbatch: microbatch as number,
    counts: Int32Array.from(counts),
    rows: values.data as Float32Array,
    results,
  };
}

/** A copy in memory that may be given away. */
function scratchCopy(part: Float32Array): Float32Array {
  const copy = scratch.take(part.length);
  copy.set(part);
  return copy;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
