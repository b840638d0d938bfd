import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fromBlockInt8, INT8_BLOCK, int8Blocks, toBlockInt8 } from '../../src/tensor/index.ts';

function quantise(values: Float32Array) {
  const codes = new Int8Array(values.length);
  const largest = new Float32Array(int8Blocks(values.length));
  toBlockInt8(values, codes, largest);
  return { codes, largest, back: fromBlockInt8(codes, largest) };
}

/** Values of very different sizes, denormals among them, in one to three blocks. */
const finite = fc
  .tuple(
    fc.constantFrom(1, 1e-3, 1e30, 1e-38, 1e-43),
    fc.array(fc.oneof(fc.float({ noNaN: true, min: -2, max: 2 }), fc.constant(0), fc.constant(-0)), {
      maxLength: 600,
    }),
  )
  .map(([scale, values]) => Float32Array.from(values, (value) => value * scale));

const bits = (values: Float32Array) => [...new Uint32Array(values.buffer, values.byteOffset, values.length)];

describe('blockwise int8', () => {
  it('errs by at most half a step of the block, and keeps the largest magnitude exactly', () => {
    fc.assert(
      fc.property(finite, (values) => {
        const { back } = quantise(values);
        for (let start = 0; start < values.length; start += INT8_BLOCK) {
          const block = values.subarray(start, start + INT8_BLOCK);
          const a = Math.max(0, ...block.map(Math.abs));
          block.forEach((x, i) => {
            const y = back[start + i] as number;
            // Half a step, and half a unit in the last place of the result (2^-150 where it is denormal).
            expect(Math.abs(x - y)).toBeLessThanOrEqual((a / 254) * (1 + 1e-12) + Math.max(a * 2 ** -24, 2 ** -150));
            if (Math.abs(x) === a) expect(Math.abs(y)).toBe(a);
          });
        }
      }),
      { numRuns: 300 },
    );
  });

  it('gives the same bits when what came out goes in again', () => {
    fc.assert(
      fc.property(finite, (values) => {
        const { back } = quantise(values);
        expect(bits(quantise(back).back)).toEqual(bits(back));
      }),
      { numRuns: 300 },
    );
  });

  it('rounds to nearest, ties to even', () => {
    const { codes } = quantise(Float32Array.of(127, 0.5, 1.5, 2.5, -0.5, -1.5, 0.50001));
    expect([...codes]).toEqual([127, 0, 2, 2, 0, -2, 1]);
  });

  it('keeps NaN and infinities, and spares other blocks', () => {
    const values = new Float32Array(2 * INT8_BLOCK).fill(3);
    values.set([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 7]);
    const { back } = quantise(values);
    expect([...back.subarray(0, 5)]).toEqual([Number.NaN, Infinity, -Infinity, 0, 0]);
    expect(back.subarray(INT8_BLOCK)).toEqual(values.subarray(INT8_BLOCK));
    expect(quantise(Float32Array.of(1, Infinity)).back).toEqual(Float32Array.of(0, Infinity));
  });

  it('takes nothing, zeros, and refuses lengths that do not fit', () => {
    expect(quantise(new Float32Array(0)).back).toHaveLength(0);
    expect([...quantise(Float32Array.of(0, -0)).back]).toEqual([0, 0]);
    expect(() => toBlockInt8(new Float32Array(300), new Int8Array(300), new Float32Array(1))).toThrow('2 scales');
    expect(() => fromBlockInt8(new Int8Array(300), new Float32Array(1))).toThrow('2 scales');
  });
});
