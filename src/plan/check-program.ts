import type { Group } from '../comm/index.ts';
import { groupsOf, normGroups, reducingGroup } from './groups.ts';
import { positionOf, rankAt } from './mesh.ts';
import { type Chains, chainsOf, notBegun, type Progress } from './microbatch-progress.ts';
import type { Instruction, Program, Stage } from './program.ts';

/** Something wrong with a program. */
export interface Violation {
  readonly rank: number;
  /** Position in the program; null if it concerns the program as a whole. */
  readonly index: number | null;
  readonly message: string;
}

/**
 * Checks one program by itself: every microbatch of the share runs on every stage once, forward before backward, each
 * value is there when it is used, peers and groups are those of the mesh, gradients are complete when they are reduced
 * and the optimizer comes last.
 * @param stageRanks pipeline rank of every stage of the model
 */
export function checkProgram(program: Program, stageRanks: readonly number[]): Violation[] {
  return new ProgramChecker(program, stageRanks).check();
}

class ProgramChecker {
  readonly #program: Program;
  readonly #stageRanks: readonly number[];
  readonly #violations: Violation[] = [];
  readonly #stages: ReadonlyMap<number, Stage>;
  readonly #chains: ReadonlyMap<number, Chains>;
  readonly #progress = new Map<number, Progress[]>();
  /** Microbatches that have wholly finished, by stage. */
  readonly #finished = new Map<number, number>();
  /** Layers whose gradients are reduced, as `dense 3`, and of these the ones whose parameters have been gathered. */
  readonly #reduced = new Set<string>();
  readonly #gathered = new Set<string>();
  readonly #optimized = new Set<number>();
  /** Exchanges of norms that have been, and that there must be. */
  #norms = 0;
  readonly #normGroups: readonly Group[];
  #index = 0;

  constructor(program: Program, stageRanks: readonly number[]) {
    this.#program = program;
    this.#stageRanks = stageRanks;
    this.#stages = new Map(program.stages.map((stage) => [stage.index, stage]));
    this.#normGroups = normGroups(program.mesh, program.rank, program.zero);
    this.#chains = new Map(program.stages.map((stage) => [stage.index, chainsOf(stage)]));
    const { start, end } = program.share;
    for (const { index } of program.stages) {
      this.#progress.set(index, Array.from({ length: end - start }, notBegun));
      this.#finished.set(index, 0);
    }
  }

  check(): Violation[] {
    this.#program.instructions.forEach((instruction, index) => {
      this.#index = index;
      const wrong = this.#step(instruction);
      if (wrong) this.#violations.push({ rank: this.#program.rank, index, message: wrong });
    });
    this.#checkEnd();
    return this.#violations;
  }

  /** Applies an instruction; says what is wrong with it, if anything. */
  #step(i: Instruction): string | null {
    if (i.op === 'Optimize') return this.#optimize(i.stages);
    if ('group' in i) {
      const wrong = this.#checkGroup(i);
      if (wrong) return wrong;
    }
    if (i.op === 'AllGather' && i.what === 'norms') return this.#gatherNorms();
    if (i.op === 'Barrier') return null;
    const stage = this.#stages.get(i.stage);
    if (!stage) return `stage ${i.stage} is not held by this rank (${[...this.#stages.keys()].join(', ')} are)`;
    if (i.op === 'AllReduce' || i.op === 'ReduceScatter') return this.#reduce(i, stage);
    if (i.op === 'AllGather') return this.#gatherParams(i);
    const progress = this.#progress.get(i.stage)?.[i.microbatch - this.#program.share.start];
    if (!progress)
      return `microbatch ${i.microbatch} is not in this rank's share ${this.#program.share.start} .. ${this.#program.share.end - 1}`;
    return this.#advance(i, stage, progress);
  }

  #advance(i: Extract<Instruction, { microbatch: number }>, stage: Stage, p: Progress): string | null {
    const chains = this.#chains.get(stage.index) as Chains;
    const last = stage.index === this.#stageRanks.length - 1;
    const forwardDone = p.forward === chains.forward.length;
    const backwardDone = p.backward === chains.backward.length;
    const before = this.#neighbour(stage.index - 1);
    const after = this.#neighbour(stage.index + 1);
    switch (i.op) {
      case 'LoadBatch': {
        const key = i.what;
        if (key === 'inputs' ? stage.index !== 0 : !last) return `${key} are not used by stage ${stage.index}`;
        if (p[key]) return `${key} are loaded twice`;
        if (p.forward > 0) return `comes after the forward that needs the ${key}`;
        p[key] = true;
        return null;
      }
      case 'Recv': {
        const peer = i.what === 'activation' ? before : after;
        const key = i.what === 'activation' ? 'received' : 'gradient';
        if (peer === null || peer === 'local') return `no ${i.what} comes from another rank to stage ${stage.index}`;
        if (i.from !== peer) return `the ${i.what} comes from rank ${peer}, not from rank ${i.from}`;
        if (i.what === 'gradient' && this.#program.mode === 'evaluate') return 'an evaluation has no gradients';
        if (p[key]) return `the ${i.what} is received twice`;
        p[key] = true;
        return null;
      }
      case 'Forward':
        return this.#forward(`Forward ${i.segment}`, stage, p);
      case 'Send': {
        const peer = i.what === 'activation' ? after : before;
        const key = i.what === 'activation' ? 'sent' : 'sentGradient';
        if (peer === null || peer === 'local') return `no ${i.what} goes from stage ${stage.index} to another rank`;
        if (i.to !== peer) return `the ${i.what} goes to rank ${peer}, not to rank ${i.to}`;
        if (p[key]) return `the ${i.what} is sent twice`;
        if (i.what === 'activation' && !forwardDone) return 'comes before the forward has made the activation';
        if (i.what === 'activation' && (p.backward > 0 || p.freed)) return 'comes after the activation was given up';
        if (i.what === 'gradient' && !backwardDone) return 'comes before the backward has made the gradient';
        p[key] = true;
        return null;
      }
      case 'AllToAll':
        return i.what === 'dispatch' || i.what === 'combine'
          ? this.#forward(`${i.what} ${i.segment}`, stage, p)
          : this.#backward(`${i.what} ${i.segment}`, stage, p);
      case 'Backward':
      case 'BackwardInput': {
        const split = i.op === 'BackwardInput';
        if (p.split !== null && p.split !== split) return 'Backward and BackwardInput are mixed in one microbatch';
        p.split = split;
        return this.#backward(`Backward ${i.segment}`, stage, p);
      }
      case 'BackwardWeight':
        if (!p.split || !backwardDone) return 'comes before the BackwardInput that leaves it something to do';
        if (p.weight) return 'the parameter gradients are computed twice';
        p.weight = true;
        this.#finish(stage.index);
        return null;
      case 'Free':
        if (this.#program.mode === 'train') return 'a training program frees by its backward';
        if (p.freed) return 'is freed twice';
        if (!forwardDone) return 'comes before the end of the forward';
        if (after !== null && after !== 'local' && !p.sent) return 'comes before the Send of the activation';
        p.freed = true;
        this.#finish(stage.index);
        return null;
    }
  }

  #forward(step: string, stage: Stage, p: Progress): string | null {
    const chain = (this.#chains.get(stage.index) as Chains).forward;
    if (p.freed) return 'comes after Free';
    if (p.forward === 0) {
      const before = this.#neighbour(stage.index - 1);
      if (stage.index === 0 && !p.inputs) return 'the inputs have not been loaded';
      if (typeof before === 'number' && !p.received) return 'the activation has not been received';
      if (before === 'local' && !this.#complete(stage.index - 1, 'forward'))
        return `stage ${stage.index - 1} has not made the activation`;
      if (stage.index === this.#stageRanks.length - 1 && !p.targets) return 'the targets have not been loaded';
    }
    if (chain[p.forward] !== step) return outOfTurn(step, chain[p.forward]);
    p.forward += 1;
    return null;
  }

  #backward(step: string, stage: Stage, p: Progress): string | null {
    const chains = this.#chains.get(stage.index) as Chains;
    if (this.#program.mode === 'evaluate') return 'an evaluation has no backward';
    if (p.forward < chains.forward.length) return 'comes before the end of the forward';
    if (p.backward === 0) {
      const after = this.#neighbour(stage.index + 1);
      if (typeof after === 'number' && !p.gradient) return 'the gradient has not been received';
      if (typeof after === 'number' && !p.sent) return 'comes before the Send of the activation, which it gives up';
      if (after === 'local' && !this.#complete(stage.index + 1, 'backward'))
        return `stage ${stage.index + 1} has not made the gradient`;
    }
    if (chains.backward[p.backward] !== step) return outOfTurn(step, chains.backward[p.backward]);
    p.backward += 1;
    if (p.backward === chains.backward.length && !p.split) this.#finish(stage.index);
    return null;
  }

  /** Whether another stage of this rank has finished the chain for the microbatch of the current instruction. */
  #complete(stage: number, chain: keyof Chains): boolean {
    const i = this.#program.instructions[this.#index] as Extract<Instruction, { microbatch: number }>;
    const other = this.#progress.get(stage)?.[i.microbatch - this.#program.share.start];
    return other?.[chain] === this.#chains.get(stage)?.[chain].length;
  }

  #finish(stage: number): void {
    this.#finished.set(stage, (this.#finished.get(stage) as number) + 1);
  }

  #unfinished(stage: number): number {
    return this.#program.share.end - this.#program.share.start - (this.#finished.get(stage) ?? 0);
  }

  #reduce(i: Extract<Instruction, { op: 'AllReduce' | 'ReduceScatter' }>, stage: Stage): string | null {
    const { mode, zero } = this.#program;
    if (mode === 'evaluate') return 'an evaluation has no gradients';
    if ((i.op === 'ReduceScatter') !== (zero === 1))
      return zero === 1
        ? 'optimizer state is sharded, so gradients take a ReduceScatter'
        : 'every data rank has all optimizer state, so gradients take an AllReduce';
    if (this.#norms > 0 || this.#optimized.size > 0)
      return 'comes after the norms or the optimizer, which need the reduced gradients';
    if (this.#unfinished(stage.index) > 0)
      return `${this.#unfinished(stage.index)} microbatches of stage ${stage.index} have no gradients yet`;
    if (i.layers.length === 0) return 'has no layers';
    for (const layer of i.layers) {
      if (!stage.layers.includes(layer)) return `layer ${layer} is not in stage ${stage.index}`;
      if (this.#reduced.has(`${i.what} ${layer}`)) return `gradients (${i.what}) of layer ${layer} are reduced twice`;
      this.#reduced.add(`${i.what} ${layer}`);
    }
    return null;
  }

  #gatherNorms(): string | null {
    if (this.#norms === this.#normGroups.length) return 'norms are gathered once too often';
    if (this.#optimized.size > 0) return 'comes after Optimize, which needs the norms';
    for (const stage of this.#stages.keys())
      if (this.#unfinished(stage) > 0)
        return `${this.#unfinished(stage)} microbatches of stage ${stage} have no gradients yet`;
    this.#norms += 1;
    return null;
  }

  #gatherParams(i: Extract<Instruction, { op: 'AllGather'; what: 'params' }>): string | null {
    if (!this.#optimized.has(i.stage)) return `comes before the Optimize of stage ${i.stage}`;
    if (i.layers.length === 0) return 'has no layers';
    for (const layer of i.layers) {
      const key = `${i.of} ${layer}`;
      if (!this.#stages.get(i.stage)?.layers.includes(layer)) return `layer ${layer} is not in stage ${i.stage}`;
      if (!this.#reduced.has(key)) return `gradients (${i.of}) of layer ${layer} have not been reduced`;
      if (this.#gathered.has(key)) return `parameters (${i.of}) of layer ${layer} are gathered twice`;
      this.#gathered.add(key);
    }
    return null;
  }

  #optimize(stages: readonly number[]): string | null {
    if (this.#program.mode === 'evaluate') return 'an evaluation does not train';
    if (this.#norms < this.#normGroups.length) return 'the norms have not been gathered';
    for (const stage of stages) {
      if (!this.#stages.has(stage)) return `stage ${stage} is not held by this rank`;
      if (this.#optimized.has(stage)) return `stage ${stage} is optimized twice`;
      if (this.#unfinished(stage) > 0)
        return `${this.#unfinished(stage)} microbatches of stage ${stage} have no gradients yet`;
      this.#optimized.add(stage);
    }
    return null;
  }

  #checkGroup(i: Extract<Instruction, { group: string }>): string | null {
    const group = this.#program.groups[i.group];
    if (!group)
      return `the program has no group "${i.group}" (it has ${Object.keys(this.#program.groups).join(', ') || 'none'})`;
    if (!group.ranks.includes(this.#program.rank)) return `this rank is no member of "${i.group}"`;
    const expected = this.#expectedGroup(i);
    if (expected && expected !== group && String(expected.ranks) !== String(group.ranks))
      return `"${i.group}" is ranks ${group.ranks.join(', ')}, but this takes ranks ${expected.ranks.join(', ')}`;
    return null;
  }

  /** The group of the mesh that an instruction is for; null if any will do. */
  #expectedGroup(i: Extract<Instruction, { group: string }>): Group | null {
    const { mesh, rank } = this.#program;
    switch (i.op) {
      case 'AllToAll':
        return groupsOf(mesh, rank).expert;
      case 'AllReduce':
      case 'ReduceScatter':
        return reducingGroup(mesh, rank, i.what === 'experts' ? 'experts' : 'dense');
      case 'AllGather':
        return i.what === 'params' ? reducingGroup(mesh, rank, i.of) : (this.#normGroups[this.#norms] ?? null);
      case 'Barrier':
        return null;
    }
  }

  /** Rank of a neighbouring stage for this data index; `local` if it is here, null if there is none. */
  #neighbour(stage: number): number | 'local' | null {
    const pipeline = this.#stageRanks[stage];
    if (pipeline === undefined) return null;
    const { mesh, rank } = this.#program;
    const position = positionOf(mesh, rank);
    return pipeline === position.pipeline ? 'local' : rankAt(mesh, { data: position.data, pipeline });
  }

  #checkEnd(): void {
    const { rank, mode, share, zero } = this.#program;
    const missing = (message: string) => this.#violations.push({ rank, index: null, message });
    if (zero === 1)
      for (const key of this.#reduced) if (!this.#gathered.has(key)) missing(`parameters of ${key} are not gathered`);
    for (const { index } of this.#program.stages) {
      if (mode === 'train' && !this.#optimized.has(index)) missing(`stage ${index} is not optimized`);
      this.#progress.get(index)?.forEach((p, i) => {
        const what = this.#lacks(index, p);
        if (what) missing(`stage ${index}, microbatch ${share.start + i}: ${what}`);
      });
    }
  }

  #lacks(stage: number, p: Progress): string | null {
    const chains = this.#chains.get(stage) as Chains;
    const before = this.#neighbour(stage - 1);
    const after = this.#neighbour(stage + 1);
    if (p.forward < chains.forward.length) return `lacks ${chains.forward[p.forward]}`;
    if (typeof after === 'number' && !p.sent) return 'the activation is not sent';
    if (this.#program.mode === 'evaluate') return p.freed ? null : 'is not freed';
    if (p.backward < chains.backward.length) return `lacks ${chains.backward[p.backward]}`;
    if (p.split && !p.weight) return 'lacks BackwardWeight';
    if (typeof before === 'number' && !p.sentGradient) return 'the gradient is not sent';
    return null;
  }
}

function outOfTurn(step: string, expected: string | undefined): string {
  return expected ? `${step} comes out of turn: ${expected} is next` : `${step} is one too many`;
}
