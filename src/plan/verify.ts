import { checkProgram, type Violation } from './check-program.ts';
import { PlanError } from './errors.ts';
import { type BlockedRank, type ExecutionResult, execute } from './execute.ts';
import { formatInstruction } from './format-instruction.ts';
import { positionOf, worldSize } from './mesh.ts';
import type { Instruction, Program } from './program.ts';

/** Options of the verifier. */
export interface VerifyOptions {
  /**
   * Messages of a channel that may be under way before a Send blocks. Left out: the least that suffices is looked for,
   * and returned.
   */
  readonly credit?: number;
}

/** What the verifier found out about programs that cannot hang. */
export interface VerifyResult {
  /** Least credit of a channel (messages sent and not yet received) with which no Send can block for ever. */
  readonly credit: number;
  readonly messages: number;
  readonly instructions: number;
}

/** Programs that would hang or compute something else than the step. */
export class VerificationError extends PlanError {
  override readonly name = 'VerificationError';
  readonly violations: readonly string[];

  constructor(violations: readonly string[]) {
    const shown = violations.slice(0, 8).join('\n  ');
    const more = violations.length > 8 ? `\n  and ${violations.length - 8} more` : '';
    super(`the programs do not fit together:\n  ${shown}${more}`);
    this.violations = violations;
  }
}

/**
 * Proves that programs can run: all ranks are there and agree on stages and groups; each program is complete and in
 * order (`checkProgram`); every Send has its Recv and the other way round, carrying the same thing; members of a group
 * issue the same collectives in the same order; and no rank waits for ever (`execute`, which is exhaustive).
 * @throws VerificationError naming rank, position and instruction; for a deadlock it lists the cycle
 */
export function verifyPrograms(programs: readonly Program[], options: VerifyOptions = {}): VerifyResult {
  const stageRanks = checkStructure(programs);
  const local = programs.flatMap((program) => checkProgram(program, stageRanks).map((v) => describe(program, v)));
  if (local.length > 0) throw new VerificationError(local);
  const messages = checkMessages(programs);
  const credit = findCredit(programs, options.credit);
  return { credit, messages, instructions: programs.reduce((sum, { instructions }) => sum + instructions.length, 0) };
}

function describe(program: Program, { rank, index, message }: Violation): string {
  if (index === null) return `rank ${rank}: ${message}`;
  return `${place(rank, index, program.instructions[index] as Instruction)}: ${message}`;
}

function place(rank: number, index: number, instruction: Instruction): string {
  return `rank ${rank}, #${index} ${formatInstruction(instruction)}`;
}

/** Checks that programs belong to one job. Returns the pipeline rank of every stage. */
function checkStructure(programs: readonly Program[]): number[] {
  const first = programs[0];
  if (!first) throw new VerificationError(['there are no programs']);
  const wrong: string[] = [];
  if (programs.length !== worldSize(first.mesh))
    wrong.push(`the mesh has ${worldSize(first.mesh)} ranks, but there are ${programs.length} programs`);
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  const stageRanks = new Array<number>(first.totalStages).fill(-1);
  const layers = new Map<number, string>();
  const groups = new Map<string, readonly number[]>();
  let covered = 0;
  programs.forEach((program, rank) => {
    if (program.rank !== rank) wrong.push(`program ${rank} is that of rank ${program.rank}`);
    for (const key of ['mesh', 'mode', 'zero', 'microbatches', 'totalStages'] as const)
      if (!same(program[key], first[key]))
        wrong.push(`rank ${rank} has ${key} ${JSON.stringify(program[key])}, rank 0 ${JSON.stringify(first[key])}`);
    const { data, pipeline } = positionOf(first.mesh, rank);
    if (pipeline === 0) {
      if (program.share.start !== covered)
        wrong.push(`rank ${rank} begins with microbatch ${program.share.start}, but ${covered} is next`);
      covered = program.share.end;
    } else if (!same(program.share, programs[data]?.share))
      wrong.push(`rank ${rank} has another share of microbatches than rank ${data}`);
    for (const stage of program.stages) {
      if (stage.pipelineRank !== pipeline)
        wrong.push(`rank ${rank} holds stage ${stage.index}, which belongs to pipeline rank ${stage.pipelineRank}`);
      stageRanks[stage.index] = stage.pipelineRank;
      const text = JSON.stringify(stage);
      if ((layers.get(stage.index) ?? text) !== text)
        wrong.push(`rank ${rank} has another idea of stage ${stage.index} than a rank before it`);
      layers.set(stage.index, text);
    }
    const own = program.stages.length;
    if (own !== programs[pipeline * first.mesh.data]?.stages.length)
      wrong.push(`rank ${rank} holds ${own} stages, unlike its replicas`);
    for (const [id, group] of Object.entries(program.groups)) {
      if (group.id !== id) wrong.push(`rank ${rank}: the group "${id}" calls itself "${group.id}"`);
      const other = groups.get(id) ?? group.ranks;
      if (other !== group.ranks && String(other) !== String(group.ranks))
        wrong.push(`rank ${rank}: the group "${id}" is ranks ${group.ranks.join(', ')}, elsewhere ${other.join(', ')}`);
      groups.set(id, other);
    }
  });
  if (covered !== first.microbatches) wrong.push(`the shares cover ${covered} of ${first.microbatches} microbatches`);
  stageRanks.forEach((rank, stage) => {
    if (rank < 0) wrong.push(`no rank holds stage ${stage}`);
  });
  if (wrong.length > 0) throw new VerificationError(wrong);
  return stageRanks;
}

/** Pairs the n-th Send of (from, to, tag) with the n-th Recv. Returns the number of messages. */
function checkMessages(programs: readonly Program[]): number {
  interface Message {
    readonly rank: number;
    readonly index: number;
    readonly instruction: Extract<Instruction, { op: 'Send' | 'Recv' }>;
  }
  const sends = programs.map(() => new Map<string, Message[]>());
  let messages = 0;
  const wrong: string[] = [];
  const text = ({ rank, index, instruction }: Message) => place(rank, index, instruction);
  for (const { rank, instructions } of programs)
    instructions.forEach((instruction, index) => {
      if (instruction.op !== 'Send') return;
      messages += 1;
      const key = `${rank}:${instruction.tag}`;
      const box = sends[instruction.to] as Map<string, Message[]>;
      const message = { rank, index, instruction };
      const list = box.get(key);
      if (list) list.push(message);
      else box.set(key, [message]);
    });
  for (const { rank, instructions } of programs)
    instructions.forEach((instruction, index) => {
      if (instruction.op !== 'Recv') return;
      const here: Message = { rank, index, instruction };
      const key = `${instruction.from}:${instruction.tag}`;
      const sent = sends[rank]?.get(key)?.shift();
      if (!sent) {
        wrong.push(`${text(here)}: rank ${instruction.from} has no Send with this tag to rank ${rank}`);
        return;
      }
      const other = sent.instruction;
      const step = instruction.what === 'activation' ? 1 : -1;
      if (
        other.what !== instruction.what ||
        other.microbatch !== instruction.microbatch ||
        other.stage + step !== instruction.stage
      )
        wrong.push(`${text(here)} would get something else: ${text(sent)}`);
    });
  for (const [to, box] of sends.entries())
    for (const list of box.values())
      for (const message of list) wrong.push(`${text(message)}: rank ${to} has no Recv for it`);
  if (wrong.length > 0) throw new VerificationError(wrong);
  return messages;
}

/** The given credit if no rank waits for ever with it, or the least with which none does. */
function findCredit(programs: readonly Program[], given?: number): number {
  const works = (credit: number): ExecutionResult | null => {
    const result = execute(programs, credit);
    return result.blocked.length === 0 && result.unread.length === 0 ? null : result;
  };
  const failure = works(given ?? 1);
  if (!failure) return given ?? 1;
  if (given !== undefined) throw deadlock(failure, programs, given);
  const hopeless = works(Number.POSITIVE_INFINITY);
  if (hopeless) throw deadlock(hopeless, programs, Number.POSITIVE_INFINITY);
  let low = 1;
  let high = 2;
  for (; works(high); high *= 2) low = high;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (works(middle)) low = middle;
    else high = middle;
  }
  return high;
}

/** Follows who waits for whom to a cycle, or to a rank that has ended. */
function deadlock(
  { blocked, unread }: ExecutionResult,
  programs: readonly Program[],
  credit: number,
): VerificationError {
  const byRank = new Map(blocked.map((b) => [b.rank, b]));
  const window =
    credit === Number.POSITIVE_INFINITY ? '' : ` (with ${credit} credit${credit === 1 ? '' : 's'} a channel)`;
  const first = blocked[0];
  if (!first)
    return new VerificationError(
      unread.map(({ from, to, tag }) => `rank ${to} never receives [${tag}] from rank ${from}`),
    );
  const path: BlockedRank[] = [];
  let at: BlockedRank | undefined = first;
  let ended: number | null = null;
  while (at && !path.includes(at)) {
    path.push(at);
    const next: number | undefined = at.waitsFor.find((rank) => byRank.has(rank)) ?? at.waitsFor[0];
    at = next === undefined ? undefined : byRank.get(next);
    if (!at && next !== undefined) ended = next;
  }
  const cycle = at ? path.slice(path.indexOf(at)) : path;
  const lines = cycle.map((b) => `${place(b.rank, b.index, b.instruction)}: ${b.reason}`);
  if (ended !== null)
    lines.push(
      programs.some(({ rank }) => rank === ended)
        ? `rank ${ended} has reached the end of its program`
        : `there is no rank ${ended}`,
    );
  else if (at) lines.push(`so rank ${at.rank} waits for itself: a cycle`);
  return new VerificationError([
    `deadlock${window}: ${blocked.length} of ${programs.length} ranks wait for ever`,
    ...lines,
  ]);
}
