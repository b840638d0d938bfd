import { groupsOf, normGroups, reducingGroup } from './groups.ts';
import { type MeshShape, positionOf, rankAt } from './mesh.ts';
import type { ExchangeKind, Instruction, MicrobatchRange, Program, ReducedKind, Segment, Stage } from './program.ts';
import type { Action, Schedule } from './schedule.ts';
import { isExchanged } from './segments.ts';

/**
 * What lowering needs to know of a stage besides its segments: layers with something to reduce (parameters or state of
 * their own; experts), in the buckets in which that is done, in the order in which the backward comes to them.
 */
export type StageContents = Readonly<Record<ReducedKind, readonly (readonly number[])[]>>;

/** The whole job, as lowering sees it. */
export interface LoweringInput {
  readonly mesh: MeshShape;
  readonly stages: readonly Stage[];
  readonly contents: readonly StageContents[];
  readonly zero: 0 | 1;
  readonly microbatches: number;
  /** Share of each data rank. */
  readonly shares: readonly MicrobatchRange[];
  /** The schedule for a share of so many microbatches. */
  schedule(microbatches: number): Schedule;
}

/**
 * Lowers a schedule to the training program of one rank: puts a Recv right before the work that needs it and a Send
 * right after the work that made it, exchanges around expert segments, and the reductions of a stage right after its last
 * backward.
 *
 * Where a rank has the whole model and its experts are sharded, two microbatches take turns at every exchange: while one's
 * tokens are on their way, and its peers are not as far yet, there is the other's work to do. (Overlapping the exchange
 * with computation as in Tutel, Hwang et al. 2022, arXiv:2206.03382, over whole microbatches. Gradients are summed in the
 * canonical tree, so no bit depends on the order.)
 */
export function lowerTraining(input: LoweringInput, rank: number): Program {
  const { mesh, contents, zero } = input;
  const { data, pipeline } = positionOf(mesh, rank);
  const share = input.shares[data] as MicrobatchRange;
  const actions = input.schedule(share.end - share.start).ranks[pipeline] as readonly Action[];
  // The order of reductions must be the same for all members, also where their shares are uneven.
  const first = input.shares[0] as MicrobatchRange;
  const order = completionOrder(input.schedule(first.end - first.start).ranks[pipeline] as readonly Action[]);
  const left = new Map<number, number>();
  for (const { stage } of actions) left.set(stage, (left.get(stage) ?? 0) + 1);

  const out: Instruction[] = [];
  const lower = new RankLowering(input, rank, out);
  let reduced = 0;
  for (const together of inPairs(input, actions)) {
    lower.actions(together, share.start);
    for (const { stage } of together) left.set(stage, (left.get(stage) as number) - 1);
    for (; reduced < order.length && left.get(order[reduced] as number) === 0; reduced++) {
      const stage = order[reduced] as number;
      const op = zero === 1 ? 'ReduceScatter' : 'AllReduce';
      for (const { what, group, layers, name } of bucketsOf(mesh, rank, contents, stage))
        out.push({ op, what, group, stage, layers, tag: `reduce/${name}` });
    }
  }
  for (const { id } of normGroups(mesh, rank, zero))
    out.push({ op: 'AllGather', what: 'norms', group: id, tag: `norms/${id}` });
  const own = input.stages.filter((stage) => stage.pipelineRank === pipeline).map((stage) => stage.index);
  out.push({ op: 'Optimize', stages: own });
  // The optimizer comes to the last bucket's layers, the first of the stage, first.
  if (zero === 1)
    for (const stage of own)
      for (const { what, group, layers, name } of bucketsOf(mesh, rank, contents, stage).reverse())
        out.push({ op: 'AllGather', what: 'params', of: what, group, stage, layers, tag: `params/${name}` });
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

/** Actions one by one, or in pairs of the same kind whose exchanges take turns. */
function inPairs({ mesh, stages, schedule }: LoweringInput, actions: readonly Action[]): Action[][] {
  const alone = actions.map((action) => [action]);
  if (mesh.pipeline > 1 || stages.length > 1 || !stages[0]?.segments.some(isExchanged)) return alone;
  const microbatches = actions.filter(({ kind }) => kind === 'F').length;
  const { name } = schedule(microbatches);
  const pairs = (kind: 'F' | 'B') =>
    Array.from({ length: Math.ceil(microbatches / 2) }, (_, i) =>
      [2 * i, 2 * i + 1]
        .filter((microbatch) => microbatch < microbatches)
        .map((microbatch): Action => ({ kind, stage: 0, microbatch })),
    );
  if (name === 'gpipe') return [...pairs('F'), ...pairs('B')];
  // A schedule of the user's own is kept as it is, and zero-bubble has nothing to gain on one stage.
  if (name !== '1f1b') return alone;
  const backward = pairs('B');
  return pairs('F').flatMap((forward, i) => [forward, backward[i] as Action[]]);
}

/** The buckets of a stage that are reduced over more than one rank, in backward order. */
function bucketsOf(mesh: MeshShape, rank: number, contents: readonly StageContents[], stage: number) {
  return (['dense', 'experts'] as const).flatMap((what) => {
    const { id, ranks } = reducingGroup(mesh, rank, what);
    if (ranks.length === 1) return [];
    const buckets = contents[stage]?.[what] ?? [];
    return buckets.map((layers, b) => ({ what, group: id, layers, name: `s${stage}/${what}/b${b}` }));
  });
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
    zero: input.zero,
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

  /** Puts actions out one after another, or, where they are two, so that they take turns at every exchange. */
  actions(actions: readonly Action[], firstMicrobatch: number): void {
    const parts = actions.map((action) => this.#action(action, firstMicrobatch + action.microbatch));
    const turns = Math.max(...parts.map((own) => own.length));
    for (let turn = 0; turn < turns; turn++) for (const own of parts) this.#out.push(...(own[turn] ?? []));
  }

  forward(stage: Stage, microbatch: number): void {
    this.#out.push(...this.#forward(stage, microbatch).flat());
  }

  /** The instructions of an action, cut behind every exchange. */
  #action(action: Action, microbatch: number): Instruction[][] {
    const stage = this.#input.stages[action.stage] as Stage;
    if (action.kind === 'F') return this.#forward(stage, microbatch);
    if (action.kind === 'W') return [[{ op: 'BackwardWeight', stage: stage.index, microbatch }]];
    return this.#backward(stage, microbatch, action.kind === 'B' ? 'Backward' : 'BackwardInput');
  }

  #forward(stage: Stage, microbatch: number): Instruction[][] {
    const { index } = stage;
    let part: Instruction[] = [];
    const parts = [part];
    if (index === 0) part.push({ op: 'LoadBatch', stage: index, microbatch, what: 'inputs' });
    if (index === this.#input.stages.length - 1)
      part.push({ op: 'LoadBatch', stage: index, microbatch, what: 'targets' });
    const from = this.#peer(index - 1);
    if (from !== null)
      part.push({
        op: 'Recv',
        what: 'activation',
        stage: index,
        microbatch,
        from,
        tag: `act/s${index}/m${microbatch}`,
      });
    const exchange = (what: ExchangeKind, segment: Segment): void => {
      part.push(this.#exchange(what, segment, microbatch));
      part = [];
      parts.push(part);
    };
    for (const segment of stage.segments) {
      if (isExchanged(segment)) exchange('dispatch', segment);
      part.push({ op: 'Forward', stage: index, segment: segment.index, microbatch });
      if (isExchanged(segment)) exchange('combine', segment);
    }
    const to = this.#peer(index + 1);
    if (to !== null)
      part.push({
        op: 'Send',
        what: 'activation',
        stage: index,
        microbatch,
        to,
        tag: `act/s${index + 1}/m${microbatch}`,
      });
    return parts;
  }

  #backward(stage: Stage, microbatch: number, op: 'Backward' | 'BackwardInput'): Instruction[][] {
    const { index } = stage;
    let part: Instruction[] = [];
    const parts = [part];
    const from = this.#peer(index + 1);
    if (from !== null)
      part.push({ op: 'Recv', what: 'gradient', stage: index, microbatch, from, tag: `grad/s${index}/m${microbatch}` });
    const exchange = (what: ExchangeKind, segment: Segment): void => {
      part.push(this.#exchange(what, segment, microbatch));
      part = [];
      parts.push(part);
    };
    for (const segment of [...stage.segments].reverse()) {
      if (isExchanged(segment)) exchange('combine-gradient', segment);
      part.push({ op, stage: index, segment: segment.index, microbatch });
      if (isExchanged(segment)) exchange('dispatch-gradient', segment);
    }
    const to = this.#peer(index - 1);
    if (to !== null)
      part.push({
        op: 'Send',
        what: 'gradient',
        stage: index,
        microbatch,
        to,
        tag: `grad/s${index - 1}/m${microbatch}`,
      });
    return parts;
  }

  #exchange(what: ExchangeKind, segment: Segment, microbatch: number): Instruction {
    const { stage, index } = segment;
    const round = microbatch - (this.#input.shares[this.#data] as MicrobatchRange).start;
    const tag = `${what}/s${stage}.${index}/r${round}`;
    return { op: 'AllToAll', what, group: this.#expertGroup, stage, segment: index, microbatch, tag };
  }

  /** Rank that holds a stage for this data index; null if there is no such stage, or it is on this very rank. */
  #peer(stage: number): number | null {
    const pipeline = this.#input.stages[stage]?.pipelineRank;
    if (pipeline === undefined || pipeline === this.#pipeline) return null;
    return rankAt(this.#input.mesh, { data: this.#data, pipeline });
  }
}
