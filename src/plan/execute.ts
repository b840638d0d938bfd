import { channelOf } from '../comm/index.ts';
import type { Instruction, Program } from './program.ts';

/** An instruction that a group of ranks executes together. */
export type Collective = Extract<Instruction, { group: string }>;
export type SendInstruction = Extract<Instruction, { op: 'Send' }>;
export type RecvInstruction = Extract<Instruction, { op: 'Recv' }>;

/** Called for each instruction when it is executed, in an order that respects every dependency. */
export interface ExecutionHooks {
  /** `index` is the position in the rank's program. */
  local?(rank: number, instruction: Instruction, index: number): void;
  /** Returns what travels with the message, a virtual time say. */
  send?(rank: number, instruction: SendInstruction, index: number): number;
  recv?(rank: number, instruction: RecvInstruction, payload: number, index: number): void;
  /** `ranks` are the members, `indices` where each of them stands. */
  collective?(instruction: Collective, ranks: readonly number[], indices: readonly number[]): void;
}

/** A rank that cannot go on, and which ranks it waits for. */
export interface BlockedRank {
  readonly rank: number;
  readonly index: number;
  readonly instruction: Instruction;
  readonly waitsFor: readonly number[];
  readonly reason: string;
}

/** How an execution ended. */
export interface ExecutionResult {
  /** Ranks that did not reach the end of their program; empty if all is well. */
  readonly blocked: readonly BlockedRank[];
  /** Messages that nobody received. */
  readonly unread: readonly { readonly from: number; readonly to: number; readonly tag: string }[];
}

interface Meeting {
  /** What the first member wants to do. */
  readonly collective: Collective;
  readonly signature: string;
  readonly members: readonly number[];
  readonly arrived: Map<number, number>;
}

/**
 * Executes programs with blocking semantics and no data: Recv waits for its message, a collective for all members of its
 * group, and a Send while `credit` earlier messages of the same channel (see `channelOf`) have not been received.
 *
 * Every queue has one writer and one reader and nothing ever chooses between two inputs (a Kahn network with bounded
 * channels), so all interleavings reach the same end: one execution is an exhaustive check. O(instructions).
 */
export function execute(programs: readonly Program[], credit: number, hooks: ExecutionHooks = {}): ExecutionResult {
  const position = new Int32Array(programs.length);
  const byRank = new Map(programs.map((program, i) => [program.rank, i]));
  // Messages under way, by receiver and then `from:tag`.
  const mail = programs.map(() => new Map<string, number[]>());
  // Messages not yet received, by sender and then `to:channel`.
  const outstanding = programs.map(() => new Map<string, number>());
  const meetings = new Map<string, Meeting>();
  const runnable: number[] = programs.map((_, i) => programs.length - 1 - i);
  const queued = new Uint8Array(programs.length).fill(1);
  const wake = (slot: number | undefined): void => {
    if (slot === undefined || queued[slot]) return;
    queued[slot] = 1;
    runnable.push(slot);
  };

  /** Executes what a rank stands at. Returns false if it must wait. */
  const step = (slot: number, instruction: Instruction): boolean => {
    const { rank } = programs[slot] as Program;
    const index = position[slot] as number;
    if (instruction.op === 'Send') {
      const to = byRank.get(instruction.to);
      if (to === undefined) return false;
      if (credit !== Number.POSITIVE_INFINITY) {
        const window = outstanding[slot] as Map<string, number>;
        const channel = `${instruction.to}:${channelOf(instruction.tag)}`;
        const used = window.get(channel) ?? 0;
        if (used >= credit) return false;
        window.set(channel, used + 1);
      }
      const payload = hooks.send?.(rank, instruction, index) ?? 0;
      const box = mail[to] as Map<string, number[]>;
      const key = `${rank}:${instruction.tag}`;
      const queue = box.get(key);
      if (queue) queue.push(payload);
      else box.set(key, [payload]);
      wake(to);
    } else if (instruction.op === 'Recv') {
      const box = mail[slot] as Map<string, number[]>;
      const key = `${instruction.from}:${instruction.tag}`;
      const queue = box.get(key);
      const payload = queue?.shift();
      if (payload === undefined) return false;
      if (queue?.length === 0) box.delete(key);
      const from = byRank.get(instruction.from);
      if (credit !== Number.POSITIVE_INFINITY && from !== undefined) {
        const window = outstanding[from] as Map<string, number>;
        const channel = `${rank}:${channelOf(instruction.tag)}`;
        window.set(channel, (window.get(channel) as number) - 1);
        wake(from);
      }
      hooks.recv?.(rank, instruction, payload, index);
    } else if ('group' in instruction) {
      return meet(slot, instruction);
    } else {
      hooks.local?.(rank, instruction, index);
    }
    position[slot] = index + 1;
    return true;
  };

  const meet = (slot: number, collective: Collective): boolean => {
    const { rank, groups } = programs[slot] as Program;
    const signature = collectiveSignature(collective);
    const meeting = meetings.get(collective.group) ?? {
      collective,
      signature,
      members: groups[collective.group]?.ranks ?? [rank],
      arrived: new Map<number, number>(),
    };
    meetings.set(collective.group, meeting);
    if (meeting.signature !== signature) return false;
    meeting.arrived.set(rank, position[slot] as number);
    if (meeting.arrived.size < meeting.members.length) return false;
    meetings.delete(collective.group);
    hooks.collective?.(
      collective,
      meeting.members,
      meeting.members.map((member) => meeting.arrived.get(member) as number),
    );
    for (const member of meeting.members) {
      const other = byRank.get(member) as number;
      position[other] = (position[other] as number) + 1;
      if (other !== slot) wake(other);
    }
    return true;
  };

  for (let slot = runnable.pop(); slot !== undefined; slot = runnable.pop()) {
    const { instructions } = programs[slot] as Program;
    queued[slot] = 0;
    for (;;) {
      const instruction = instructions[position[slot] as number];
      if (!instruction || !step(slot, instruction)) break;
    }
  }

  const blocked = programs.flatMap((program, slot): BlockedRank[] => {
    const index = position[slot] as number;
    const instruction = program.instructions[index];
    return instruction ? [{ rank: program.rank, index, instruction, ...waiting(instruction, program, meetings) }] : [];
  });
  const unread = mail.flatMap((box, slot) =>
    [...box].flatMap(([key, queue]) => {
      const colon = key.indexOf(':');
      const message = {
        from: Number(key.slice(0, colon)),
        to: (programs[slot] as Program).rank,
        tag: key.slice(colon + 1),
      };
      return queue.map(() => message);
    }),
  );
  return { blocked, unread };
}

/** What all members of a collective must agree on. */
export function collectiveSignature(collective: Collective): string {
  const { op, tag } = collective;
  switch (op) {
    case 'AllToAll':
      return `${op} ${collective.what} s${collective.stage}.${collective.segment} [${tag}]`;
    case 'AllReduce':
    case 'ReduceScatter':
      return `${op} ${collective.what} s${collective.stage} layers ${collective.layers.join(' ')} [${tag}]`;
    case 'AllGather':
      return collective.what === 'norms'
        ? `${op} norms [${tag}]`
        : `${op} params ${collective.of} s${collective.stage} layers ${collective.layers.join(' ')} [${tag}]`;
    case 'Barrier':
      return `${op} [${tag}]`;
  }
}

function waiting(
  instruction: Instruction,
  { rank }: Program,
  meetings: ReadonlyMap<string, Meeting>,
): Pick<BlockedRank, 'waitsFor' | 'reason'> {
  if (instruction.op === 'Recv')
    return { waitsFor: [instruction.from], reason: `waits for a message from rank ${instruction.from}` };
  if (instruction.op === 'Send')
    return { waitsFor: [instruction.to], reason: `waits until rank ${instruction.to} has received earlier messages` };
  const meeting = 'group' in instruction ? meetings.get(instruction.group) : undefined;
  const missing = meeting?.members.filter((member) => !meeting.arrived.has(member) && member !== rank) ?? [];
  if (meeting && !meeting.arrived.has(rank))
    return {
      waitsFor: [...meeting.arrived.keys()],
      reason: `disagrees with rank ${[...meeting.arrived.keys()].join(', ')}, which issued ${meeting.signature}`,
    };
  return { waitsFor: missing, reason: `waits for rank ${missing.join(', ')}` };
}
