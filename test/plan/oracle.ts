import type { Instruction, Program } from '../../src/plan/index.ts';

/** What a set of programs computes: one text for each rank, or why it computes nothing. */
export type Outcome =
  | { readonly ok: true; readonly results: readonly string[] }
  | { readonly ok: false; readonly why: string };

type Value = number;

interface Rank {
  readonly program: Program;
  at: number;
  readonly values: Map<string, Value>;
  readonly result: string[];
}

const interned = new Map<string, Value>();

/** The number of an expression: the same in every execution. */
function expression(...parts: (string | number)[]): Value {
  const key = parts.join(' ');
  const known = interned.get(key) ?? interned.size;
  interned.set(key, known);
  return known;
}

/**
 * Executes programs symbolically: values are numbers that stand for expressions (equal expressions, equal numbers), ranks
 * take turns in an order given by `pick`, Recv and collectives block, a Send blocks while `credit` messages of its channel
 * are unread. Written apart from the verifier and without its rules: an instruction fails only if a value that it needs is
 * not there. What each rank's optimizer is given (or, in evaluation, what was computed) is the result.
 */
export function interpret(
  programs: readonly Program[],
  credit: number,
  pick: (choices: number) => number = () => 0,
): Outcome {
  const ranks = programs.map((program): Rank => ({ program, at: 0, values: new Map(), result: [] }));
  const boxes = new Map<string, Value[]>();
  const channels = new Map<string, number>();
  const failures: string[] = [];

  const take = (rank: Rank, key: string): Value => {
    const value = rank.values.get(key);
    if (value === undefined) throw new Error(`rank ${rank.program.rank}: no value ${key}`);
    rank.values.delete(key);
    return value;
  };
  const peek = (rank: Rank, key: string): Value => {
    const value = rank.values.get(key);
    if (value === undefined) throw new Error(`rank ${rank.program.rank}: no value ${key}`);
    return value;
  };
  const holds = (rank: Rank, stage: number) => rank.program.stages.find(({ index }) => index === stage);
  const channel = (from: number, to: number, tag: string) => `${from}>${to} ${tag.slice(0, tag.lastIndexOf('/'))}`;

  const local = (rank: Rank, i: Instruction): void => {
    const { program, values } = rank;
    if (i.op === 'LoadBatch') values.set(`${i.what} ${i.microbatch}`, expression(i.what, i.microbatch));
    else if (i.op === 'Forward') {
      const stage = holds(rank, i.stage);
      if (!stage?.segments[i.segment]) throw new Error(`no segment ${i.stage}.${i.segment}`);
      const key = `${i.stage} ${i.microbatch}`;
      // What the segment reads: the segment before, the experts' exchange, or what enters the stage.
      let input: Value;
      if (i.segment > 0)
        input = take(
          rank,
          i.segment % 2 === 1
            ? `rows ${key} ${i.segment}`
            : program.mesh.expert > 1
              ? `back ${key} ${i.segment - 1}`
              : `h ${key} ${i.segment - 1}`,
        );
      else if (i.stage === 0) input = take(rank, `inputs ${i.microbatch}`);
      else input = take(rank, `enter ${key}`);
      const last = i.stage === program.totalStages - 1;
      const targets = last && i.segment === 0 ? [take(rank, `targets ${i.microbatch}`)] : [];
      const made = expression('F', i.stage, i.segment, input, ...targets);
      values.set(`kept ${key} ${i.segment}`, made);
      const end = i.segment === stage.segments.length - 1;
      values.set(end ? `out ${key}` : `h ${key} ${i.segment}`, made);
      if (end && last) values.set(`cotangent ${key}`, expression('loss', made));
      if (end && last) values.set(`loss ${i.microbatch}`, made);
      if (end && holds(rank, i.stage + 1)) values.set(`enter ${i.stage + 1} ${i.microbatch}`, made);
    } else if (i.op === 'Backward' || i.op === 'BackwardInput') {
      const stage = holds(rank, i.stage);
      if (!stage) throw new Error('not held');
      const key = `${i.stage} ${i.microbatch}`;
      const end = i.segment === stage.segments.length - 1;
      const source = end
        ? `cotangent ${key}`
        : i.segment % 2 === 1
          ? `drows ${key} ${i.segment}`
          : `dback ${key} ${i.segment + 1}`;
      const gradient = take(rank, source);
      if (end) take(rank, `out ${key}`);
      const kept = take(rank, `kept ${key} ${i.segment}`);
      const made = expression('B', gradient, kept);
      values.set(`dh ${key} ${i.segment}`, made);
      values.set(`${i.op === 'Backward' ? 'grad' : 'later'} ${key} ${i.segment}`, expression('G', gradient, kept));
      if (i.segment === 0 && holds(rank, i.stage - 1)) values.set(`cotangent ${i.stage - 1} ${i.microbatch}`, made);
    } else if (i.op === 'BackwardWeight') {
      const stage = holds(rank, i.stage);
      for (const { index } of stage?.segments ?? []) {
        const key = `${i.stage} ${i.microbatch} ${index}`;
        values.set(`grad ${key}`, take(rank, `later ${key}`));
      }
    } else if (i.op === 'Free') {
      const key = `${i.stage} ${i.microbatch}`;
      rank.result.push(`free ${key} ${take(rank, `out ${key}`)}`);
      for (const name of [...values.keys()]) if (name.startsWith(`kept ${key} `)) values.delete(name);
    } else if (i.op === 'Optimize') {
      for (const stage of i.stages) {
        const text = sums(rank, stage).join(',');
        const given = [...rank.values]
          .filter(([name]) => /^(norms|reduced)/.test(name))
          .map(String)
          .sort();
        rank.result.push(`optimize ${stage}: ${text}; ${given}`);
        // With its state sharded, a rank has the whole of a parameter's new value only once it has been gathered.
        values.set(`updated ${stage}`, expression('O', program.rank, text, ...given));
      }
    }
  };
  /** Gradients of a stage that a rank has, in a fixed order. */
  const sums = (rank: Rank, stage: number): string[] =>
    [...rank.values]
      .filter(([name]) => name.startsWith(`grad ${stage} `))
      .map(([name, value]) => `${name}=${value}`)
      .sort();

  const step = (rank: Rank): boolean => {
    const i = rank.program.instructions[rank.at];
    if (!i) return false;
    const me = rank.program.rank;
    if (i.op === 'Send') {
      const line = channel(me, i.to, i.tag);
      if ((channels.get(line) ?? 0) >= credit) return false;
      const key = `${i.stage} ${i.microbatch}`;
      const value = i.what === 'activation' ? peek(rank, `out ${key}`) : take(rank, `dh ${key} 0`);
      channels.set(line, (channels.get(line) ?? 0) + 1);
      const box = `${me}>${i.to} ${i.tag}`;
      boxes.set(box, [...(boxes.get(box) ?? []), value]);
    } else if (i.op === 'Recv') {
      const box = boxes.get(`${i.from}>${me} ${i.tag}`);
      const value = box?.shift();
      if (value === undefined) return false;
      const line = channel(i.from, me, i.tag);
      channels.set(line, (channels.get(line) as number) - 1);
      const key = `${i.what === 'activation' ? 'enter' : 'cotangent'} ${i.stage} ${i.microbatch}`;
      if (rank.values.has(key)) throw new Error(`${key} comes twice`);
      rank.values.set(key, value);
    } else if ('group' in i) {
      const group = rank.program.groups[i.group];
      if (!group) throw new Error(`no group ${i.group}`);
      const members = group.ranks.map((r) => ranks[r] as Rank);
      const same = (other: Rank) => {
        const j = other.program.instructions[other.at];
        return j && 'group' in j && j.group === i.group && j.tag === i.tag && j.op === i.op;
      };
      if (!members.every(same)) return false;
      together(members);
      for (const member of members) member.at += 1;
      return true;
    } else local(rank, i);
    rank.at += 1;
    return true;
  };

  const together = (members: readonly Rank[]): void => {
    const given = members.map((member): (string | number)[] => {
      const i = member.program.instructions[member.at] as Extract<Instruction, { group: string }>;
      if (i.op === 'AllReduce' || i.op === 'ReduceScatter')
        return [i.what, i.layers.join('+'), ...sums(member, i.stage)];
      if (i.op === 'AllGather' && i.what === 'params') {
        peek(member, `reduced ${i.of} ${i.stage} ${i.layers}`);
        return [i.of, i.layers.join('+'), peek(member, `updated ${i.stage}`)];
      }
      if (i.op === 'AllGather')
        return [...member.values]
          .filter(([name]) => /^(grad|reduced|norms)/.test(name))
          .map(String)
          .sort();
      if (i.op !== 'AllToAll') return [];
      const key = `${i.stage} ${i.microbatch}`;
      switch (i.what) {
        case 'dispatch':
          return [take(member, `h ${key} ${i.segment - 1}`)];
        case 'combine':
          return [take(member, `h ${key} ${i.segment}`)];
        case 'combine-gradient':
          return [take(member, `dh ${key} ${i.segment + 1}`)];
        default:
          return [take(member, `dh ${key} ${i.segment}`)];
      }
    });
    members.forEach((member, index) => {
      const i = member.program.instructions[member.at] as Extract<Instruction, { group: string }>;
      if (i.op === 'AllReduce' || i.op === 'ReduceScatter') {
        const owner = i.op === 'AllReduce' ? 'all' : index;
        member.values.set(`reduced ${i.what} ${i.stage} ${i.layers}`, expression('R', owner, ...given.flat()));
        return;
      }
      if (i.op === 'AllGather' && i.what === 'params') {
        member.result.push(`params ${i.of} ${i.stage} ${i.layers}: ${expression('P', ...given.flat())}`);
        return;
      }
      if (i.op === 'AllGather') {
        // (A second exchange adds to what the first has told.)
        member.values.set(`norms ${i.group}`, expression('N', ...given.flat()));
        return;
      }
      if (i.op !== 'AllToAll') return;
      const key = `${i.stage} ${i.microbatch} ${i.segment}`;
      const name = { dispatch: 'rows', combine: 'back', 'combine-gradient': 'drows', 'dispatch-gradient': 'dback' }[
        i.what
      ];
      member.values.set(`${name} ${key}`, expression(i.what, ...given.flat()));
    });
  };

  for (;;) {
    let moved = false;
    const first = pick(ranks.length);
    for (let n = 0; n < ranks.length; n++) {
      const rank = ranks[(first + n) % ranks.length] as Rank;
      try {
        while (step(rank)) moved = true;
      } catch (error) {
        failures.push((error as Error).message);
        return { ok: false, why: failures.join('; ') };
      }
    }
    if (!moved) break;
  }
  const stuck = ranks.filter((rank) => rank.at < rank.program.instructions.length);
  if (stuck.length > 0) return { ok: false, why: `ranks ${stuck.map((rank) => rank.program.rank)} are stuck` };
  if ([...boxes.values()].some((box) => box.length > 0)) return { ok: false, why: 'messages are left over' };
  for (const rank of ranks)
    for (const name of rank.values.keys())
      if (!/^(grad|reduced|norms|updated|loss|dh|out|cotangent)/.test(name))
        return { ok: false, why: `${name} is left over` };
  return { ok: true, results: ranks.map((rank) => rank.result.sort().join('\n')) };
}
