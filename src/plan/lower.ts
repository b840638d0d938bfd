import { groupsOf } from './groups.ts';
import { type MeshShape, positionOf, rankAt } from './mesh.ts';
import type { ExchangeKind, Instruction, MicrobatchRange, Program, Segment, Stage } from './program.ts';
import type { Action, Schedule } from './schedule.ts';
import { isExchanged } from './segments.ts';

/** What lowering needs to know of a stage besides its segments. */
export interface StageContents {
  /** Whether there is anything to reduce over the data ranks: dense parameters or state. */
  readonly dense: boolean;
  readonly experts: boolean;
}

/** The whole job, as lowering sees it. */
export interface LoweringInput {
  readonly mesh: MeshShape;
  readonly stages: readonly Stage[];
  readonly contents: readonly StageContents[];
  readonly microbatches: number;
  /** Share of each data rank. */
  readonly shares: readonly MicrobatchRange[];
  /** The schedule for a share of so many microbatches. */
  schedule(microbatches: number): Schedule;
}

/**
 * Lowers a schedule to the training program of one rank: puts a Recv right before the work that needs it and a Send
 * right after the work that made it, exchanges around expert segments, and the all-reduces of a stage right after its
 * last backward.
 */
export function lowerTraining(input: LoweringInput, rank: number): Program {
  const { mesh, contents } = input;
  const { data, pipeline } = positionOf(mesh, rank);
  const share = input.shares[data] as MicrobatchRange;
  const groups = groupsOf(mesh, rank);
  const actions = input.schedule(share.end - share.start).ranks[pipeline] as readonly Action[];
  // The order of all-reduces must be the same for all members, also where their shares are uneven.
  const first = input.shares[0] as MicrobatchRange;
  const order = completionOrder(input.schedule(first.end - first.start).ranks[pipeline] as readonly Action[]);
  const left = new Map<number, number>();
  for (const { stage } of actions) left.set(stage, (left.get(stage) ?? 0) + 1);

  const out: Instruction[] = [];
  const lower = new RankLowering(input, rank, out);
  let reduced = 0;
  for (const action of actions) {
    lower.action(action, share.start + action.microbatch);
    left.set(action.stage, (left.get(action.stage) as number) - 1);
    for (; reduced < order.length && left.get(order[reduced] as number) === 0; reduced++) {
      const stage = order[reduced] as number;
      if (contents[stage]?.dense && groups.data.ranks.length > 1)
        out.push({ op: 'AllReduce', what: 'dense', group: groups.data.id, stage, tag: `reduce/s${stage}/dense` });
      if (contents[stage]?.experts && groups.replica.ranks.length > 1)
        out.push({
          op: 'AllReduce',
          what: 'experts',
          group: groups.replica.id,
          stage,
          tag: `reduce/s${stage}/experts`,
        });
    }
  }
  if (groups.model.ranks.length > 1) out.push({ op: 'AllGather', what: 'norms', group: groups.model.id, tag: 'norms' });
  const own = input.stages.filter((stage) => stage.pipelineRank === pipeline);
  out.push({ op: 'Optimize', stages: own.map((stage) => stage.index) });
  return program(input, rank, 'train', out);
}

/**
 * The program that runs microbatches forward only. A rank with one stage takes a microbatch at a time; rounds follow one
 * another without waiting, so the pipeline fills by itself. Ranks with several stages take `pipeline` microbatches a
 * round, so that they have work while others have the first ones.
 */
export function lowerEvaluation(input: LoweringInput, rank: number): Program {
  const { data, pipeline } = positionOf(input.mesh, rank);
  const share = input.shares[data] as MicrobatchRange;
  const out: Instruction[] = [];
  const lower = new RankLowering(input, rank, out);
  for (const stage of input.stages)
    if (stage.pipelineRank === pipeline)
      for (let microbatch = share.start; microbatch < share.end; microbatch++) {
        lower.forward(stage, microbatch);
        out.push({ op: 'Free', stage: stage.index, microbatch });
      }
  return program(input, rank, 'evaluate', out);
}

/** Stages in the order in which their last action comes. */
function completionOrder(actions: readonly Action[]): number[] {
  const last = new Map<number, number>();
  for (const [i, { stage }] of actions.entries()) last.set(stage, i);
  return [...last].sort((a, b) => a[1] - b[1]).map(([stage]) => stage);
}

function program(input: LoweringInput, rank: number, mode: Program['mode'], instructions: Instruction[]): Program {
  const { data, pipeline } = positionOf(input.mesh, rank);
  const used = new Set(instructions.flatMap((i) => ('group' in i ? [i.group] : [])));
  const groups = Object.values(groupsOf(input.mesh, rank)).filter((group) => used.has(group.id));
  return {
    rank,
    mesh: input.mesh,
    mode,
    microbatches: input.microbatches,
    share: input.shares[data] as MicrobatchRange,
    stages: input.stages.filter((stage) => stage.pipelineRank === pipeline),
    totalStages: input.stages.length,
    groups: Object.fromEntries(groups.map((group) => [group.id, group])),
    instructions,
  };
}

/** Turns actions of one rank into instructions. */
class RankLowering {
  readonly #input: LoweringInput;
  readonly #data: number;
  readonly #pipeline: number;
  readonly #expertGroup: string;
  readonly #out: Instruction[];

  constructor(input: LoweringInput, rank: number, out: Instruction[]) {
    const { data, pipeline } = positionOf(input.mesh, rank);
    this.#input = input;
    this.#data = data;
    this.#pipeline = pipeline;
    this.#expertGroup = groupsOf(input.mesh, rank).expert.id;
    this.#out = out;
  }

  action(action: Action, microbatch: number): void {
    const stage = this.#input.stages[action.stage] as Stage;
    if (action.kind === 'F') this.forward(stage, microbatch);
    else if (action.kind === 'W') this.#out.push({ op: 'BackwardWeight', stage: stage.index, microbatch });
    else this.#backward(stage, microbatch, action.kind === 'B' ? 'Backward' : 'BackwardInput');
  }

  forward(stage: Stage, microbatch: number): void {
    const { index } = stage;
    const out = this.#out;
    if (index === 0) out.push({ op: 'LoadBatch', stage: index, microbatch, what: 'inputs' });
    if (index === this.#input.stages.length - 1)
      out.push({ op: 'LoadBatch', stage: index, microbatch, what: 'targets' });
    const from = this.#peer(index - 1);
    if (from !== null)
      out.push({ op: 'Recv', what: 'activation', stage: index, microbatch, from, tag: `act/s${index}/m${microbatch}` });
    for (const segment of stage.segments) {
      if (isExchanged(segment)) this.#exchange('dispatch', segment, microbatch);
      out.push({ op: 'Forward', stage: index, segment: segment.index, microbatch });
      if (isExchanged(segment)) this.#exchange('combine', segment, microbatch);
    }
    const to = this.#peer(index + 1);
    if (to !== null)
      out.push({
        op: 'Send',
        what: 'activation',
        stage: index,
        microbatch,
        to,
        tag: `act/s${index + 1}/m${microbatch}`,
      });
  }

  #backward(stage: Stage, microbatch: number, op: 'Backward' | 'BackwardInput'): void {
    const { index } = stage;
    const out = this.#out;
    const from = this.#peer(index + 1);
    if (from !== null)
      out.push({ op: 'Recv', what: 'gradient', stage: index, microbatch, from, tag: `grad/s${index}/m${microbatch}` });
    for (const segment of [...stage.segments].reverse()) {
      if (isExchanged(segment)) this.#exchange('combine-gradient', segment, microbatch);
      out.push({ op, stage: index, segment: segment.index, microbatch });
      if (isExchanged(segment)) this.#exchange('dispatch-gradient', segment, microbatch);
    }
    const to = this.#peer(index - 1);
    if (to !== null)
      out.push({
        op: 'Send',
        what: 'gradient',
        stage: index,
        microbatch,
        to,
        tag: `grad/s${index - 1}/m${microbatch}`,
      });
  }

  #exchange(what: ExchangeKind, segment: Segment, microbatch: number): void {
    const { stage, index } = segment;
    const round = microbatch - (this.#input.shares[this.#data] as MicrobatchRange).start;
    const tag = `${what}/s${stage}.${index}/r${round}`;
    this.#out.push({ op: 'AllToAll', what, group: this.#expertGroup, stage, segment: index, microbatch, tag });
  }

  /** Rank that holds a stage for this data index; null if there is no such stage, or it is on this very rank. */
  #peer(stage: number): number | null {
    const pipeline = this.#input.stages[stage]?.pipelineRank;
    if (pipeline === undefined || pipeline === this.#pipeline) return null;
    return rankAt(this.#input.mesh, { data: this.#data, pipeline });
  }
}
