import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Instruction, Program } from '../../src/plan/index.ts';
import { formatInstruction, SCHEDULE_NAMES, VerificationError, verifyPrograms } from '../../src/plan/index.ts';
import { layer, model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

describe('every schedule is free of deadlock with a single credit a channel', () => {
  for (const name of SCHEDULE_NAMES)
    for (const chunks of name === 'interleaved-1f1b' ? [1, 2, 3] : [1])
      it(`${name}, ${chunks} chunks, p <= 6, m <= 12`, () => {
        for (let p = 1; p <= 6; p++)
          for (let m = 1; m <= 12; m++) {
            const { verified } = plan(model(p * chunks), { pipeline: p, schedule: name, chunks }, m);
            expect({ p, m, train: verified.train.credit, evaluate: verified.evaluate.credit }).toEqual({
              p,
              m,
              train: 1,
              evaluate: 1,
            });
          }
      });

  it('with data and expert axes, uneven shares, several expert calls, any layer costs', () => {
    fc.assert(
      fc.property(
        fc.record({
          name: fc.constantFrom(...SCHEDULE_NAMES),
          pipeline: fc.integer({ min: 1, max: 4 }),
          chunks: fc.integer({ min: 1, max: 2 }),
          expert: fc.constantFrom(1, 2, 4),
          groups: fc.integer({ min: 1, max: 3 }),
          more: fc.nat(9),
          flops: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 8, maxLength: 12 }),
          calls: fc.nat(2),
        }),
        ({ name, pipeline, chunks, expert, groups, more, flops, calls }) => {
          const data = expert * groups;
          const microbatches = expert > 1 ? data * (1 + (more % 3)) : data + more;
          const layers = flops.map(
            (f, i) => model(1, { flops: f * 1000, experts: i % 2 ? 4 : 0, calls: i % 2 ? calls : 0 }).layers[0],
          );
          const summary = {
            layers: layers.map((each, i) => ({ ...(each as NonNullable<typeof each>), name: `l${i}` })),
          };
          const { verified, programs } = plan(
            summary,
            { pipeline, data, expert, schedule: name, chunks },
            microbatches,
          );
          expect(verified.train.credit).toBe(1);
          expect(verified.evaluate.credit).toBe(1);
          // Exactness: each microbatch goes through each stage exactly once.
          const forwards = programs.flatMap(({ instructions }) =>
            instructions.flatMap((i) => (i.op === 'Forward' && i.segment === 0 ? [`${i.stage} ${i.microbatch}`] : [])),
          );
          expect(new Set(forwards).size).toBe(forwards.length);
          expect(forwards.length).toBe(microbatches * (programs[0] as Program).totalStages);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('order inside a rank', () => {
  it('receives right before the work, sends right after it, reduces right after the last backward', () => {
    const { programs } = plan(
      model(4, { experts: 2 }),
      { pipeline: 2, data: 4, expert: 2, schedule: 'interleaved-1f1b' },
      8,
    );
    for (const { instructions } of programs)
      instructions.forEach((i, index) => {
        const next = instructions[index + 1];
        const previous = instructions[index - 1];
        if (i.op === 'Recv')
          expect(next).toMatchObject({
            op: i.what === 'activation' ? 'Forward' : 'Backward',
            stage: i.stage,
            microbatch: i.microbatch,
          });
        if (i.op === 'Send')
          expect(previous).toMatchObject({
            op: i.what === 'activation' ? 'Forward' : 'Backward',
            stage: i.stage,
            microbatch: i.microbatch,
          });
        if (i.op === 'ReduceScatter' && i.what === 'dense')
          expect(instructions.slice(0, index).findLast(({ op }) => op === 'Backward')).toMatchObject({
            stage: i.stage,
          });
      });
    const { instructions } = programs[0] as Program;
    const end = instructions.slice(instructions.findIndex(({ op }) => op === 'AllGather') - 2);
    expect(end.map(formatInstruction)).toEqual([
      'ReduceScatter dense s0 layer 0 in data/p0 [reduce/s0/dense/b0]',
      'ReduceScatter experts s0 layer 0 in replica/p0/e0 [reduce/s0/experts/b0]',
      'AllGather norms in data/p0 [norms/data/p0]',
      'AllGather norms in column/d0 [norms/column/d0]',
      'Optimize s0 s2',
      'AllGather params experts s0 layer 0 in replica/p0/e0 [params/s0/experts/b0]',
      'AllGather params dense s0 layer 0 in data/p0 [params/s0/dense/b0]',
      'AllGather params experts s2 layer 2 in replica/p0/e0 [params/s2/experts/b0]',
      'AllGather params dense s2 layer 2 in data/p0 [params/s2/dense/b0]',
    ]);
  });

  it('with whole optimizer state, gradients go to every rank', () => {
    const { programs } = plan(model(2, { experts: 2 }), { pipeline: 2, data: 4, expert: 2, zero: 0 }, 8);
    expect((programs[0] as Program).instructions.slice(-4).map(formatInstruction)).toEqual([
      'AllReduce dense s0 layer 0 in data/p0 [reduce/s0/dense/b0]',
      'AllReduce experts s0 layer 0 in replica/p0/e0 [reduce/s0/experts/b0]',
      'AllGather norms in model/g0 [norms/model/g0]',
      'Optimize s0',
    ]);
  });

  it('gradients are reduced in buckets of some megabytes, the last layers first', () => {
    const big = { ...layer('big'), params: [{ path: 'w', shape: [1024, 1024], bytes: 2 ** 22, optimizerBytes: 0 }] };
    const summary = { layers: Array.from({ length: 5 }, (_, i) => ({ ...big, name: `l${i}` })) };
    const { programs } = plan(summary, { data: 2 }, 2);
    const reduced = (programs[0] as Program).instructions.flatMap((i) => (i.op === 'ReduceScatter' ? [i.layers] : []));
    expect(reduced).toEqual([[3, 4], [1, 2], [0]]);
  });

  it('a single rank communicates nothing', () => {
    const { programs } = plan(model(2, { experts: 2 }), {}, 2);
    expect(programs[0]?.instructions.map(formatInstruction)).toEqual([
      'LoadBatch inputs s0 m0',
      'LoadBatch targets s0 m0',
      'Forward s0.0 m0',
      'Backward s0.0 m0',
      'LoadBatch inputs s0 m1',
      'LoadBatch targets s0 m1',
      'Forward s0.0 m1',
      'Backward s0.0 m1',
      'Optimize s0',
    ]);
  });
});

describe('refusals', () => {
  const { programs } = plan(model(3), { pipeline: 3 }, 4);
  const edit = (rank: number, change: (list: Instruction[]) => Instruction[]): Program[] =>
    programs.map((program) =>
      program.rank === rank ? { ...program, instructions: change([...program.instructions]) } : program,
    );
  const message = (changed: readonly Program[], credit?: number): string => {
    try {
      verifyPrograms(changed, credit === undefined ? {} : { credit });
    } catch (error) {
      expect(error).toBeInstanceOf(VerificationError);
      return (error as Error).message;
    }
    throw new Error('was accepted');
  };

  it('prints the cycle of a deadlock with rank, position and instruction', () => {
    // Rank 0 wants the first gradient before it sends the last activation that rank 1 asks for before that gradient.
    const changed = edit(1, (list) => {
      const at = list.findIndex((i) => i.op === 'Recv' && i.what === 'activation' && i.microbatch === 3);
      const to = list.findIndex((i) => i.op === 'Recv' && i.what === 'gradient' && i.microbatch === 0);
      const [moved] = list.splice(at, 1) as [Instruction];
      list.splice(to, 0, moved);
      return list;
    });
    const text = message(changed);
    expect(text).toMatch(/deadlock: \d of 3 ranks wait for ever/);
    expect(text).toMatch(
      /rank 0, #\d+ Recv gradient s0 m0 from rank 1 \[grad\/s0\/m0\]: waits for a message from rank 1/,
    );
    expect(text).toMatch(
      /rank 1, #\d+ Recv activation s1 m3 from rank 0 \[act\/s1\/m3\]: waits for a message from rank 0/,
    );
    expect(text).toMatch(/so rank \d waits for itself: a cycle/);
  });

  it('names a send without a receive, and the other way round', () => {
    const text = message(
      edit(2, (list) => list.map((i) => (i.op === 'Recv' && i.microbatch === 1 ? { ...i, tag: 'act/s2/m9' } : i))),
    );
    expect(text).toMatch(
      /rank 2, #\d+ Recv activation s2 m1 .*act\/s2\/m9.*rank 1 has no Send with this tag to rank 2/,
    );
    expect(text).toMatch(/rank 1, #\d+ Send activation s1 m1 .*rank 2 has no Recv for it/);
  });

  it('names what is out of order', () => {
    expect(message(edit(2, (list) => list.filter((i) => i.op !== 'LoadBatch')))).toMatch(
      /Forward s2\.0 m0: the targets have not been loaded/,
    );
    expect(message(edit(0, (list) => list.reverse()))).toMatch(
      /rank 0, #0 Optimize s0: the norms have not been gathered/,
    );
  });

  it('names members that issue different collectives', () => {
    const two = plan(model(2), { data: 2, pipeline: 2, schedule: 'gpipe' }, 2).programs.map((program) =>
      program.rank === 1
        ? {
            ...program,
            instructions: program.instructions.map((i) => (i.op === 'ReduceScatter' ? { ...i, tag: 'other' } : i)),
          }
        : program,
    );
    expect(message(two)).toMatch(/disagrees with rank \d, which issued ReduceScatter dense s0/);
  });

  it('checks that programs belong together', () => {
    const first = programs[0] as Program;
    expect(message(programs.slice(0, 2))).toMatch(/the mesh has 3 ranks, but there are 2 programs/);
    expect(message([])).toMatch(/there are no programs/);
    expect(message(programs.map((p) => (p.rank === 1 ? { ...p, microbatches: 5 } : p)))).toMatch(
      /rank 1 has microbatches 5, rank 0 4/,
    );
    expect(message(programs.map((p) => (p.rank === 0 ? { ...first, share: { start: 0, end: 3 } } : p)))).toMatch(
      /the shares cover 3 of 4 microbatches/,
    );
  });

  it('finds the credit that programs need', () => {
    // Rank 0 sends every activation before rank 1 takes the second one first.
    const all = plan(model(2), { pipeline: 2, schedule: 'gpipe' }, 3).programs;
    const changed = all.map((program) => {
      if (program.rank === 0) return program;
      const list = [...program.instructions];
      const receives = list.flatMap((i, at) => (i.op === 'Recv' ? [at] : []));
      const [a, , c] = receives as [number, number, number];
      const [last] = list.splice(c, 1) as [Instruction];
      list.splice(a, 0, last);
      return { ...program, instructions: list };
    });
    expect(verifyPrograms(changed).credit).toBe(3);
    expect(message(changed, 2)).toMatch(/deadlock \(with 2 credits a channel\)/);
    expect(message(changed, 2)).toMatch(/Send activation s0 m2 .*waits until rank 1 has received earlier messages/);
  });
});
