import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { share, view } from '../../src/data/shared-array.ts';
import { applyView, type PreparedViews, permutations, rotations } from '../../src/data/stream/views.ts';

/** Each element is a weighted sum of elements of the input, as the definition has it. */
function seenThrough({ size, taps, from, weights }: PreparedViews, input: Float32Array, index: number): Float32Array {
  const places = view(from, 'int32').subarray(index * size * taps, (index + 1) * size * taps);
  const factors = weights ? view(weights, 'float32').subarray(index * size * taps) : null;
  return Float32Array.from({ length: size }, (_, i) =>
    Array.from({ length: taps }, (_, tap) => i * taps + tap)
      .filter((at) => (places[at] as number) >= 0)
      .reduce((sum, at) => sum + (factors ? (factors[at] as number) : 1) * (input[places[at] as number] as number), 0),
  );
}

describe('views', () => {
  it('show each input as its own view has it, and leave those without one', () => {
    const holes: PreparedViews = {
      size: 16,
      taps: 1,
      from: share(
        'int32',
        [...Array(32).keys()].map((i) => (i % 3 ? i % 16 : -1)),
      ),
      weights: null,
    };
    const all = [permutations(16, 3, 7), rotations(4, [0, 30, 200]), holes];
    const values = fc.float({ noNaN: true, min: -8, max: 8 });
    fc.assert(
      fc.property(
        fc.constantFrom(...all),
        fc.array(fc.tuple(fc.integer({ min: -1, max: 1 }), fc.array(values, { minLength: 16, maxLength: 16 })), {
          minLength: 1,
          maxLength: 4,
        }),
        (views, examples) => {
          const inputs = Float32Array.from(examples.flatMap(([, input]) => input));
          applyView(
            views,
            inputs,
            Int32Array.from(examples, ([which]) => which),
          );
          examples.forEach(([which, input], at) => {
            const expected = which < 0 ? Float32Array.from(input) : seenThrough(views, Float32Array.from(input), which);
            // (-0 is as good as 0.)
            expect([...inputs.subarray(at * 16, (at + 1) * 16)].map((x) => x + 0)).toEqual(
              [...expected].map((x) => x + 0),
            );
          });
        },
      ),
    );
  });
});
