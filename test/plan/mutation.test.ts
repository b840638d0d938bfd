import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Instruction, ParallelOptions, Program } from '../../src/plan/index.ts';
import { formatInstruction, VerificationError, verifyPrograms } from '../../src/plan/index.ts';
import { model, plan } from './helpers.ts';
import { interpret } from './oracle.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

/**
 * A change is harmless exactly if the changed programs still run to their end (with the same credit), leave no message
 * unread and nothing kept, and hand every optimizer the same gradients, reductions and norms. `interpret` decides that by
 * executing the programs symbolically; the verifier must refuse everything else, and may not refuse what is harmless.
 */
function judge(original: readonly Program[], changed: readonly Program[], credit: number) {
  const before = interpret(original, credit);
  const after = interpret(changed, credit);
  if (!before.ok) throw new Error(`the original does not run: ${before.why}`);
  const harmless = after.ok && String(after.results) === String(before.results);
  let refusal: Error | null = null;
  try {
    verifyPrograms(changed, { credit });
  } catch (error) {
    refusal = error as Error;
    expect(refusal).toBeInstanceOf(VerificationError);
  }
  return { harmless, refusal, why: after.ok ? 'other results' : after.why };
}

function replace(programs: readonly Program[], rank: number, change: (list: Instruction[]) => void): Program[] {
  return programs.map((program) => {
    if (program.rank !== rank) return program;
    const instructions = [...program.instructions];
    change(instructions);
    return { ...program, instructions };
  });
}

interface Case {
  readonly name: string;
  readonly parallel: Partial<ParallelOptions>;
  readonly layers: number;
  readonly experts?: number;
  readonly microbatches: number;
}

const cases: Case[] = [
  { name: 'gpipe', parallel: { pipeline: 3, schedule: 'gpipe' }, layers: 3, microbatches: 4 },
  { name: '1f1b', parallel: { pipeline: 3 }, layers: 3, microbatches: 5 },
  { name: '1f1b with data ranks', parallel: { pipeline: 2, data: 2 }, layers: 2, microbatches: 5 },
  {
    name: 'interleaved',
    parallel: { pipeline: 2, schedule: 'interleaved-1f1b', chunks: 2 },
    layers: 4,
    microbatches: 3,
  },
  { name: 'sharded state', parallel: { data: 3, zero: 1 }, layers: 2, microbatches: 4 },
  { name: 'whole state', parallel: { data: 2, pipeline: 2, zero: 0 }, layers: 3, microbatches: 4 },
  { name: 'sharded experts', parallel: { data: 4, expert: 2, zero: 1 }, layers: 2, experts: 2, microbatches: 4 },
  { name: 'zero-bubble', parallel: { pipeline: 3, schedule: 'zero-bubble' }, layers: 3, microbatches: 4 },
  { name: 'experts', parallel: { pipeline: 2, data: 2, expert: 2 }, layers: 2, experts: 2, microbatches: 4 },
  {
    name: 'experts, zero-bubble',
    parallel: { pipeline: 2, data: 4, expert: 2, schedule: 'zero-bubble' },
    layers: 2,
    experts: 4,
    microbatches: 8,
  },
];

describe.each(cases)('changes to $name', ({ parallel, layers, experts = 0, microbatches }) => {
  const made = plan(model(layers, { experts }), parallel, microbatches);
  const { credit } = made.verified.train;
  const sets = [made.programs, made.evaluate];

  it('runs as it is, in any order of ranks', () => {
    for (const programs of sets) {
      const expected = interpret(programs, credit);
      expect(expected.ok).toBe(true);
      fc.assert(
        fc.property(fc.infiniteStream(fc.nat()), (numbers) => {
          const outcome = interpret(programs, credit, (n) => (numbers.next().value as number) % n);
          expect(outcome).toEqual(expected);
        }),
        { numRuns: 10 },
      );
    }
  });

  it('swapped instructions are refused, unless they commute', () => {
    const counts = { harmful: 0, harmless: 0 };
    const check = (programs: readonly Program[], rank: number, a: number, b: number) => {
      const changed = replace(programs, rank, (list) => {
        [list[a], list[b]] = [list[b] as Instruction, list[a] as Instruction];
      });
      const { harmless, refusal, why } = judge(programs, changed, credit);
      const list = programs[rank]?.instructions as readonly Instruction[];
      const text = `rank ${rank}: ${formatInstruction(list[a] as Instruction)} <-> ${formatInstruction(list[b] as Instruction)}`;
      expect(refusal === null, `${text}: ${why} / ${refusal?.message}`).toBe(harmless);
      counts[harmless ? 'harmless' : 'harmful'] += 1;
    };
    for (const programs of sets)
      for (const { rank, instructions } of programs)
        for (let i = 0; i + 1 < instructions.length; i++) check(programs, rank, i, i + 1);
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.nat(), (r, a, b) => {
        const rank = r % made.programs.length;
        const { length } = (made.programs[rank] as Program).instructions;
        fc.pre(a % length !== b % length);
        check(made.programs, rank, a % length, b % length);
      }),
      { numRuns: 150, seed: 1 },
    );
    expect(counts.harmful).toBeGreaterThan(counts.harmless);
  });

  it('a missing instruction is refused', () => {
    for (const programs of sets)
      for (const { rank, instructions } of programs)
        instructions.forEach((instruction, index) => {
          const changed = replace(programs, rank, (list) => list.splice(index, 1));
          expect(() => verifyPrograms(changed, { credit }), formatInstruction(instruction)).toThrow(VerificationError);
        });
  });

  it('a repeated instruction is refused', () => {
    for (const programs of sets)
      for (const { rank, instructions } of programs)
        instructions.forEach((instruction, index) => {
          const changed = replace(programs, rank, (list) => list.splice(index, 0, instruction));
          expect(() => verifyPrograms(changed, { credit }), formatInstruction(instruction)).toThrow(VerificationError);
        });
  });

  it('another tag, peer, group, stage, segment, microbatch, layers or kind is refused', () => {
    let changes = 0;
    for (const programs of sets)
      for (const { rank, instructions, groups } of programs)
        instructions.forEach((instruction, index) => {
          const others: Partial<Record<string, unknown>>[] = [];
          const i = instruction as Instruction & Record<string, unknown>;
          if (typeof i.tag === 'string') {
            others.push({ tag: `${i.tag}x` });
            const another = instructions.find((other) => other.op === i.op && 'tag' in other && other.tag !== i.tag);
            if (another && 'tag' in another) others.push({ tag: another.tag });
          }
          for (const key of ['to', 'from'])
            if (typeof i[key] === 'number')
              for (const program of programs) if (program.rank !== i[key]) others.push({ [key]: program.rank });
          if (typeof i.group === 'string')
            for (const id of ['nobody', ...Object.keys(groups)])
              if (id !== i.group && String(groups[id]?.ranks) !== String(groups[i.group]?.ranks))
                others.push({ group: id });
          for (const key of ['stage', 'segment', 'microbatch'])
            if (typeof i[key] === 'number') others.push({ [key]: i[key] + 1 }, { [key]: i[key] - 1 });
          if (Array.isArray(i.layers)) {
            const layers = i.layers as number[];
            others.push({ layers: [] }, { layers: layers.slice(1) }, { layers: [...layers, layers[0]] });
            others.push({ layers: layers.map((each) => each + 1) });
          }
          for (const key of ['what', 'of'])
            if (i[key] === 'dense' || i[key] === 'experts')
              others.push({ [key]: i[key] === 'dense' ? 'experts' : 'dense' });
          for (const other of others) {
            const changed = replace(programs, rank, (list) =>
              list.splice(index, 1, { ...instruction, ...other } as Instruction),
            );
            expect(
              () => verifyPrograms(changed, { credit }),
              `${formatInstruction(instruction)} ${JSON.stringify(other)}`,
            ).toThrow(VerificationError);
            changes += 1;
          }
        });
    expect(changes).toBeGreaterThan(50);
  });
});
