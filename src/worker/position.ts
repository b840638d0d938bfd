import { formatInstruction, type Instruction } from '../plan/index.ts';
import { FlightRecorder } from './flight-recorder.ts';
import type { ProgramRun } from './program-run.ts';
import { PROGRESS_FIELDS } from './protocol.ts';

const STEP = PROGRESS_FIELDS.indexOf('step');
const MODE = PROGRESS_FIELDS.indexOf('mode');
const INSTRUCTION = PROGRESS_FIELDS.indexOf('instruction');
const COUNT = PROGRESS_FIELDS.indexOf('count');
const ABORT = PROGRESS_FIELDS.indexOf('abort');

/** The coordinator has ended the run; what it was about is reported elsewhere. */
export class RunAborted extends Error {
  override readonly name = 'RunAborted';
}

/** @throws RunAborted if the coordinator has set the flag. */
export function throwIfAborted(progress: SharedArrayBuffer | undefined): void {
  if (progress && Atomics.load(new Int32Array(progress), ABORT) === 1) throw new RunAborted('the run has been ended');
}

/** What a rank is doing, for failure reports, and through shared memory for whoever wonders why it is silent. */
export class Position {
  readonly #progress: SharedArrayBuffer | undefined;
  readonly #shared: Int32Array | null;
  /** Remembers the last instructions, where the shared memory has room for them. */
  readonly flight: FlightRecorder | null;
  #run: ProgramRun | null = null;
  #index = -1;
  #count = 0;

  constructor(progress: SharedArrayBuffer | undefined) {
    this.#progress = progress;
    this.#shared = progress ? new Int32Array(progress) : null;
    this.flight = FlightRecorder.in(progress);
  }

  /** An instruction begins. @throws RunAborted if the run has been ended meanwhile */
  begin(run: ProgramRun, index: number): void {
    throwIfAborted(this.#progress);
    this.#run = run;
    this.#index = index;
    this.#store(run, index);
    this.flight?.record(run.step, run.training ? 0 : 1, index);
  }

  /** Some steps from this one on are about to be run as one. @throws RunAborted if the run has been ended meanwhile */
  span(step: number): void {
    throwIfAborted(this.#progress);
    this.#count += 1;
    if (!this.#shared) return;
    Atomics.store(this.#shared, STEP, step);
    Atomics.store(this.#shared, MODE, 0);
    Atomics.store(this.#shared, COUNT, this.#count);
  }

  /** The program has come to its end. */
  end(run: ProgramRun): void {
    this.#run = null;
    this.#index = -1;
    this.#store(run, -1);
  }

  get instruction(): Instruction | null {
    return this.#run?.program.instructions[this.#index] ?? null;
  }

  /** The current instruction as `plexus plan` prints it, or null between steps. */
  get text(): string | null {
    const { instruction } = this;
    return instruction ? formatInstruction(instruction) : null;
  }

  /** Whether the step that is being done, or was when it failed, has begun to change what lasts from step to step. */
  get changing(): boolean {
    if (!this.#run?.training) return false;
    return this.#run.program.instructions.slice(0, this.#index + 1).some(({ op }) => op === 'Optimize');
  }

  get step(): number | null {
    return this.#run?.training ? this.#run.step : null;
  }

  get microbatch(): number | null {
    const { instruction } = this;
    return instruction && 'microbatch' in instruction ? instruction.microbatch : null;
  }

  #store(run: ProgramRun, index: number): void {
    this.#count += 1;
    if (!this.#shared) return;
    Atomics.store(this.#shared, STEP, run.step);
    Atomics.store(this.#shared, MODE, run.training ? 0 : 1);
    Atomics.store(this.#shared, INSTRUCTION, index);
    Atomics.store(this.#shared, COUNT, this.#count);
  }
}
