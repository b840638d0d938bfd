import { formatInstruction, type Instruction, type Program } from '../plan/index.ts';
import type { RankState } from './agent/protocol.ts';
import { epochNow, type FlightEntry, type FlightWaits, readEntries, readWaits } from './flight-recorder.ts';
import { PROGRESS_FIELDS } from './protocol.ts';

/** A thread that has not looked for messages for so long, in milliseconds, is not waiting for one. */
const BUSY_MS = 1000;

/** Instructions that wait for others. */
const WAITING: ReadonlySet<Instruction['op']> = new Set<Instruction['op']>([
  'Send',
  'Recv',
  'AllToAll',
  'AllReduce',
  'ReduceScatter',
  'AllGather',
  'Barrier',
]);

/** A rank as whoever launched it knows it. */
export interface ObservedRank {
  readonly rank: number;
  readonly generation: number;
  /** `WorkerJob.progress`. */
  readonly progress: SharedArrayBuffer;
  readonly train: Program;
  readonly evaluate: Program;
}

/**
 * What a rank is doing, waits for and did last, read from the memory that it shares: also while its thread is blocked,
 * and after it has ended. Whom it waits for is what it said itself when it last could, else what its instruction says.
 */
export function readFlight(observed: ObservedRank, now = epochNow()): RankState {
  const { rank, generation, progress } = observed;
  const field = new Int32Array(progress);
  const at = (name: (typeof PROGRESS_FIELDS)[number]) => Atomics.load(field, PROGRESS_FIELDS.indexOf(name));
  const [step, mode, index] = [at('step'), at('mode'), at('instruction')];
  const entries = readEntries(progress);
  const last = entries.at(-1);
  const program = (of: number): Program => (of === 1 ? observed.evaluate : observed.train);
  const nameOf = (entry: Pick<FlightEntry, 'mode' | 'index'>): string => {
    const instruction = program(entry.mode).instructions[entry.index];
    return instruction ? formatInstruction(instruction) : `instruction ${entry.index}`;
  };
  const began = last?.began ?? now;
  const instruction = step < 0 || index < 0 ? null : (program(mode).instructions[index] ?? null);
  const said = readWaits(progress);
  // One that waits for a message has time to say so, again and again.
  const busyMs = said === null ? 0 : now - Math.max(said.at, began);
  const busy = instruction !== null && WAITING.has(instruction.op) && busyMs > BUSY_MS;
  return {
    rank,
    generation,
    step: Math.max(0, step),
    doing: `${describe(step, mode, instruction ? nameOf({ mode, index }) : null)}${busy ? ' (its thread is stuck in something else)' : ''}`,
    sinceMs: now - began,
    waits: instruction && !busy ? waitsOf(observed, instruction, said, began, now) : [],
    recent: entries.map((entry) => ({ instruction: nameOf(entry), step: entry.step, ms: now - entry.began })),
  };
}

function describe(step: number, mode: number, instruction: string | null): string {
  if (step < 0) return 'starting';
  const unit = mode === 1 ? `evaluation round ${step}` : `step ${step}`;
  return instruction === null ? `between steps, after ${unit}` : `${unit}, ${instruction}`;
}

function waitsOf(
  { rank, train, evaluate }: ObservedRank,
  instruction: Instruction,
  said: FlightWaits | null,
  began: number,
  now: number,
): RankState['waits'] {
  // What it said before this instruction began was about another.
  if (said && said.at >= began && said.waits.length > 0)
    return said.waits.map(({ from, tag, sinceMs }) => ({ from, tag, sinceMs: sinceMs + now - said.at }));
  const sinceMs = now - began;
  if (instruction.op === 'Recv') return [{ from: instruction.from, tag: instruction.tag, sinceMs }];
  if (instruction.op === 'Send') return [{ from: instruction.to, tag: instruction.tag, sinceMs }];
  if (!('group' in instruction)) return [];
  const group = train.groups[instruction.group] ?? evaluate.groups[instruction.group];
  return (group?.ranks ?? [])
    .filter((other) => other !== rank)
    .map((from) => ({ from, tag: instruction.tag, sinceMs }));
}
