import type { Signature } from '../engine.ts';
import type { Graph } from '../graph.ts';
import { deadCode, joinGraphs } from '../passes/index.ts';
import type { OnnxTensor } from './tensor.ts';

/** What can be put off: an executable of small arithmetic. */
export interface Deferrable {
  /** Different for each session. */
  readonly id: number;
  readonly graph: Graph;
  readonly outputs: readonly Signature[];
  readonly flops: number;
  /** Runs at once, on this thread, into outputs that get their memory. */
  runNow(inputs: readonly OnnxTensor[], outputs: readonly OnnxTensor[]): void;
}

/** How a sequence of runs becomes one. */
export type Join = (graph: Graph) => Deferrable;

/**
 * Floating-point operations above which an executable is run at once, and above which a sequence is: of larger ones, calls are a
 * small part.
 */
export const SMALL_FLOPS = 5e7;
const SEQUENCE_FLOPS = 2e8;
/** Runs that wait at most. */
const LONGEST = 64;
/** How often a sequence must come before it is joined: one that comes once (the first step's) is not worth a session. */
const OFTEN = 3;
/** Joined sequences, and sequences that are counted, at most. */
const JOINED = 32;
const COUNTED = 1024;

interface Call {
  readonly executable: Deferrable;
  readonly inputs: readonly OnnxTensor[];
  readonly outputs: readonly OnnxTensor[];
}

interface Sequence {
  seen: number;
  joined: Deferrable | null;
}

/**
 * Runs that wait until one of their results is looked at. A step of a small model is a dozen runs of some microseconds' arithmetic
 * each, and every run costs tens of microseconds besides; what is looked at are a loss and some norms. So runs are put off, and a sequence of
 * them that has come a few times, the same executables with the same wiring, is joined into one session, in which values that nobody
 * holds any more are not even outputs. (The idea is that of lazy tensors: Suhan et al., LazyTensor, 2021; here what is
 * recorded are whole executables, which are not changed, so that bits stay.)
 */
export class DeferredRuns {
  private calls: Call[] = [];
  private flops = 0;
  /** Changes with every flush: which tensors are inputs of runs that wait. */
  private epoch = 1;
  private released: OnnxTensor[] = [];
  private readonly sequences = new Map<string, Sequence>();
  private joined = 0;
  private readonly join: Join;
  private readonly free: (tensor: OnnxTensor) => void;

  /** @param free gives a tensor's memory back */
  constructor(join: Join, free: (tensor: OnnxTensor) => void) {
    this.join = join;
    this.free = free;
  }

  /** Puts a run off; its outputs have values when they are looked at. */
  add(executable: Deferrable, inputs: readonly OnnxTensor[], outputs: readonly OnnxTensor[]): void {
    for (const input of inputs) input.queued = this.epoch;
    for (const output of outputs) output.waiting = this;
    this.calls.push({ executable, inputs, outputs });
    this.flops += executable.flops;
    if (this.calls.length >= LONGEST || this.flops > SEQUENCE_FLOPS) this.flush();
  }

  /** Whether a run that waits will read it. */
  reads(tensor: OnnxTensor): boolean {
    return tensor.queued === this.epoch;
  }

  /** Gives a tensor back once the runs that read it are over. False if none does. */
  release(tensor: OnnxTensor): boolean {
    if (tensor.waiting === this) {
      tensor.dead = true;
      return true;
    }
    if (!this.reads(tensor)) return false;
    tensor.dead = true;
    this.released.push(tensor);
    return true;
  }

  /** Runs all that waits. */
  flush(): void {
    const { calls, released } = this;
    if (calls.length === 0) return;
    const flops = this.flops;
    this.calls = [];
    this.released = [];
    this.flops = 0;
    this.epoch += 1;
    const outputs = calls.flatMap((call) => call.outputs);
    for (const output of outputs) output.waiting = null;
    if (calls.length === 1 || flops > SEQUENCE_FLOPS || !this.runJoined(calls, outputs))
      for (const { executable, inputs, outputs: own } of calls) executable.runNow(inputs, own);
    for (const output of outputs) if (output.dead && output.value) this.free(output);
    for (const tensor of released) this.free(tensor);
  }

  /** Forgets what waits: its results are not wanted any more. */
  drop(): void {
    for (const { outputs } of this.calls) for (const output of outputs) output.waiting = null;
    this.calls = [];
    this.released = [];
    this.flops = 0;
    this.epoch += 1;
  }

  /** Runs a sequence as one, if it has come often enough. */
  private runJoined(calls: readonly Call[], outputs: readonly OnnxTensor[]): boolean {
    const given: OnnxTensor[] = [];
    const places = new Map<OnnxTensor, number>();
    // Values that are given have negative places until it is known how many there are.
    let made = 0;
    const wiring = calls.map(({ inputs, outputs: own }) => {
      const taken = inputs.map((input) => {
        const known = places.get(input);
        if (known !== undefined) return known;
        given.push(input);
        places.set(input, -given.length);
        return -given.length;
      });
      for (const output of own) places.set(output, made++);
      return taken;
    });
    const wanted = outputs.flatMap((output, i) => (output.dead ? [] : [i]));
    const key = `${calls.map(({ executable }, i) => `${executable.id}(${wiring[i]})`).join('')}>${wanted}`;
    const sequence = this.sequenceOf(key);
    if (!sequence) return false;
    sequence.seen += 1;
    if (!sequence.joined) {
      if (sequence.seen < OFTEN || this.joined >= JOINED) return false;
      this.joined += 1;
      const graph = joinGraphs(
        given,
        calls.map(({ executable }, i) => ({
          graph: executable.graph,
          inputs: (wiring[i] as number[]).map((place) => (place < 0 ? -1 - place : given.length + place)),
        })),
        wanted.map((place) => given.length + place),
      );
      sequence.joined = this.join(deadCode(graph));
    }
    try {
      sequence.joined.runNow(
        given,
        wanted.map((place) => outputs[place] as OnnxTensor),
      );
    } catch {
      // One by one, the run that fails says which module it is of.
      return false;
    }
    return true;
  }

  private sequenceOf(key: string): Sequence | null {
    const known = this.sequences.get(key);
    if (known) return known;
    if (this.sequences.size >= COUNTED) return null;
    const sequence: Sequence = { seen: 0, joined: null };
    this.sequences.set(key, sequence);
    return sequence;
  }
}
