import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evaluationBatches, orderOf } from '../../src/data/index.ts';

const sizes = fc.record({
  seed: fc.nat(1000),
  examples: fc.integer({ min: 1, max: 60 }),
  micro: fc.integer({ min: 1, max: 8 }),
  count: fc.integer({ min: 1, max: 6 }),
});

describe('orderOf', () => {
  it('uses every example exactly once an epoch, for any batch', () => {
    fc.assert(
      fc.property(sizes, ({ seed, examples, micro, count }) => {
        const global = micro * count;
        const order = orderOf({ seed, examples, global, micro });
        expect(order.microbatches).toBe(count);
        const epochs = 3;
        const stream: number[] = [];
        for (let step = 0; stream.length < epochs * examples; step++)
          for (let mb = 0; mb < count; mb++) stream.push(...order.indices(step, mb));
        for (let epoch = 0; epoch < epochs; epoch++) {
          const used = stream.slice(epoch * examples, (epoch + 1) * examples).sort((a, b) => a - b);
          expect(used).toEqual(Array.from({ length: examples }, (_, i) => i));
        }
      }),
      { numRuns: 60 },
    );
  });

  it('does not depend on who asks, in which order, or how the batch is cut into microbatches', () => {
    fc.assert(
      fc.property(sizes, fc.nat(50), ({ seed, examples, micro, count }, step) => {
        const global = micro * count;
        const forwards = orderOf({ seed, examples, global, micro });
        const alone = orderOf({ seed, examples, global, micro }).indices(step, count - 1);
        for (let mb = 0; mb < count - 1; mb++) forwards.indices(step, mb);
        expect(forwards.indices(step, count - 1)).toEqual(alone);
        const whole = orderOf({ seed, examples, global, micro: global }).indices(step, 0);
        const joined = Array.from({ length: count }, (_, mb) => [...forwards.indices(step, mb)]).flat();
        expect(joined).toEqual([...whole]);
      }),
      { numRuns: 60 },
    );
  });

  it('gives another order in each epoch and for each seed', () => {
    const first = (seed: number, step: number) =>
      orderOf({ seed, examples: 50, global: 50, micro: 50 }).indices(step, 0).join();
    expect(new Set([first(0, 0), first(0, 1), first(0, 2), first(1, 0)]).size).toBe(4);
    expect(orderOf({ seed: 0, examples: 50, global: 25, micro: 5 }).epochAt(3)).toBe(1.5);
  });

  it('refuses what cannot be', () => {
    expect(() => orderOf({ seed: 0, examples: 0, global: 4, micro: 2 })).toThrow(
      /examples must be a positive integer, not 0/,
    );
    expect(() => orderOf({ seed: 0, examples: 9, global: 4, micro: 3 })).toThrow(
      /batch.micro must divide batch.global, but 4 \/ 3/,
    );
    expect(() => orderOf({ seed: 0, examples: 9, global: 4, micro: 2 }).indices(0, 2)).toThrow(
      /no microbatch 2 of step 0/,
    );
  });
});

describe('evaluationBatches', () => {
  it('covers a split in equal microbatches, each example at most once', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 20 }), (examples, micro) => {
        const batches = evaluationBatches({ examples, micro });
        expect(batches.every((batch) => batch.length === micro)).toBe(true);
        const used = batches.flatMap((batch) => [...batch]);
        if (examples >= micro) {
          expect(new Set(used).size).toBe(used.length);
          expect(used.length).toBeGreaterThan(examples - micro);
        } else expect(new Set(used).size).toBe(examples);
      }),
      { numRuns: 60 },
    );
  });

  it('limited, is a prefix of the whole, scattered over the split', () => {
    const all = evaluationBatches({ examples: 1000, micro: 10 });
    const some = evaluationBatches({ examples: 1000, micro: 10, max: 5 });
    expect(some).toEqual(all.slice(0, 5));
    expect(Math.max(...some.flatMap((b) => [...b]))).toBeGreaterThan(700);
    expect(evaluationBatches({ examples: 0, micro: 4 })).toEqual([]);
  });
});
