import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sampleToken } from '../../src/coordinator/index.ts';
import { createRng } from '../../src/tensor/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const logits = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: -20, max: 20 }), {
  minLength: 1,
  maxLength: 30,
});

describe('sampleToken', () => {
  it('takes the likeliest token at temperature 0, the first of equals', () => {
    fc.assert(
      fc.property(logits, fc.nat(), (values, seed) => {
        const array = Float32Array.from(values);
        const id = sampleToken(array, { temperature: 0, topK: 0 }, createRng(seed));
        expect(id).toBe(array.indexOf(Math.max(...array)));
      }),
    );
  });

  it('stays within the topK likeliest', () => {
    fc.assert(
      fc.property(logits, fc.integer({ min: 1, max: 5 }), fc.nat(), (values, topK, seed) => {
        const array = Float32Array.from(values);
        const id = sampleToken(array, { temperature: 2, topK }, createRng(seed));
        expect(array.filter((value) => value > (array[id] as number)).length).toBeLessThan(topK);
      }),
    );
  });

  it('draws in proportion to the softmax', () => {
    const rng = createRng(1);
    const counts = [0, 0, 0];
    const array = Float32Array.from([0, Math.log(2), Math.log(5)]);
    for (let i = 0; i < 8000; i++) {
      const id = sampleToken(array, { temperature: 1, topK: 0 }, rng);
      counts[id] = (counts[id] as number) + 1;
    }
    expect(counts.map((count) => count / 8000)).toEqual([1, 2, 5].map((weight) => expect.closeTo(weight / 8, 1)));
  });

  it('skips what is not finite, and refuses when nothing is', () => {
    const rng = createRng(1);
    expect(
      sampleToken(Float32Array.from([Number.NaN, -1, Number.NEGATIVE_INFINITY]), { temperature: 1, topK: 0 }, rng),
    ).toBe(1);
    expect(() => sampleToken(new Float32Array([Number.NaN]), { temperature: 1, topK: 0 }, rng)).toThrow(
      /no logit is finite/,
    );
  });
});
