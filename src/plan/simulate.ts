import type { StepCosts } from './costs.ts';
import { execute } from './execute.ts';
import type { Instruction, Program } from './program.ts';

/** An instruction that took time, in seconds since the step began. */
export interface Span {
  readonly start: number;
  readonly end: number;
  readonly instruction: Instruction;
}

/** What one rank did in a simulated step. Times in seconds. */
export interface RankTimes {
  /** Time spent computing. */
  readonly busy: number;
  /** When the rank had done everything. */
  readonly end: number;
  /** Most bytes of activations held at once, and most microbatches (a stage each). */
  readonly peakActivationBytes: number;
  readonly peakMicrobatches: number;
  readonly messages: number;
  readonly bytes: number;
}

/** A step in virtual time. */
export interface Simulation {
  /** Seconds until the last rank has finished. */
  readonly seconds: number;
  /** Share of all ranks' time in which they do not compute: the bubble, and waits for communication. */
  readonly bubble: number;
  readonly ranks: readonly RankTimes[];
  /** By rank, in order; empty unless asked for. */
  readonly timeline: readonly (readonly Span[])[];
}

/** Options of a simulation. */
export interface SimulationOptions {
  /** Keep what every rank did when. Default false: ten thousand ranks have millions of spans. */
  readonly timeline?: boolean;
}

/**
 * Runs programs in virtual time. A Send costs its rank nothing: messages of a link follow one another in the background,
 * so communication shows only where a Recv has to wait. Collectives begin when the last member has come.
 * O(instructions).
 */
export function simulate(programs: readonly Program[], costs: StepCosts, options: SimulationOptions = {}): Simulation {
  const clock = new Float64Array(programs.length);
  const busy = new Float64Array(programs.length);
  const bytes = new Float64Array(programs.length);
  const messages = new Float64Array(programs.length);
  const memory = programs.map(() => new ActivationMemory(costs));
  const links = programs.map(() => new Map<number, number>());
  const timeline: Span[][] = options.timeline ? programs.map(() => []) : [];
  const span = (rank: number, start: number, end: number, instruction: Instruction) => {
    if (end > start) timeline[rank]?.push({ start, end, instruction });
  };
  const result = execute(programs, Number.POSITIVE_INFINITY, {
    local(rank, instruction) {
      const program = programs[rank] as Program;
      const start = clock[rank] as number;
      const seconds = costs.seconds(instruction, program);
      clock[rank] = start + seconds;
      busy[rank] = (busy[rank] as number) + seconds;
      memory[rank]?.apply(instruction);
      span(rank, start, start + seconds, instruction);
    },
    send(rank, instruction) {
      const size = costs.bytes(instruction, programs[rank] as Program);
      const free = links[rank]?.get(instruction.to) ?? 0;
      const sent = Math.max(clock[rank] as number, free) + size / costs.bytesPerSecond;
      links[rank]?.set(instruction.to, sent);
      bytes[rank] = (bytes[rank] as number) + size;
      messages[rank] = (messages[rank] as number) + 1;
      return sent + costs.latencySeconds;
    },
    recv(rank, instruction, arrival) {
      const start = clock[rank] as number;
      clock[rank] = Math.max(start, arrival);
      span(rank, start, clock[rank] as number, instruction);
    },
    collective(instruction, ranks) {
      let start = 0;
      let most = 0;
      for (const rank of ranks) {
        const size = costs.bytes(instruction, programs[rank] as Program);
        start = Math.max(start, clock[rank] as number);
        most = Math.max(most, size);
        bytes[rank] = (bytes[rank] as number) + size;
        messages[rank] = (messages[rank] as number) + (ranks.length - 1) * (instruction.op === 'AllReduce' ? 2 : 1);
      }
      const rounds = instruction.op === 'AllReduce' ? 2 : 1;
      const end = start + most / costs.bytesPerSecond + rounds * costs.latencySeconds;
      for (const rank of ranks) {
        span(rank, clock[rank] as number, end, instruction);
        clock[rank] = end;
      }
    },
  });
  if (result.blocked.length > 0)
    throw new RangeError(`${result.blocked.length} of ${programs.length} ranks wait for ever; verifyPrograms says why`);
  let seconds = 0;
  let work = 0;
  for (let rank = 0; rank < programs.length; rank++) {
    seconds = Math.max(seconds, clock[rank] as number);
    work += busy[rank] as number;
  }
  const ranks = programs.map(
    (_, rank): RankTimes => ({
      busy: busy[rank] as number,
      end: clock[rank] as number,
      peakActivationBytes: memory[rank]?.peakBytes ?? 0,
      peakMicrobatches: memory[rank]?.peakCount ?? 0,
      messages: messages[rank] as number,
      bytes: bytes[rank] as number,
    }),
  );
  return { seconds, bubble: seconds > 0 ? 1 - work / (seconds * programs.length) : 0, ranks, timeline };
}

/** Counts what a rank keeps between forwards and backwards. */
class ActivationMemory {
  peakBytes = 0;
  peakCount = 0;
  #bytes = 0;
  #count = 0;
  readonly #costs: StepCosts;

  constructor(costs: StepCosts) {
    this.#costs = costs;
  }

  apply(i: Instruction): void {
    if (i.op === 'Forward' && i.segment === 0) this.#add(i.stage, 1);
    else if (i.op === 'Backward' && i.segment === 0) this.#add(i.stage, -1);
    else if (i.op === 'Free' || i.op === 'BackwardWeight') this.#add(i.stage, -1);
  }

  #add(stage: number, count: number): void {
    this.#count += count;
    this.#bytes += count * this.#costs.activationBytes(stage);
    this.peakCount = Math.max(this.peakCount, this.#count);
    this.peakBytes = Math.max(this.peakBytes, this.#bytes);
  }
}
