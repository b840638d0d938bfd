import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from '../../src/tensor/index.ts';

const one = (x: number) => Float32Array.of(x);
const allPatterns = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The nearest value of `grid` (sorted, by pattern) to x; a tie goes to the even pattern. */
function nearest(x: number, pattern: number, decode: (patterns: Uint16Array) => Float32Array): boolean {
  const chosen = decode(Uint16Array.of(pattern))[0] as number;
  const distance = Math.abs(chosen - x);
  return [pattern - 1, pattern + 1].every((other) => {
    if (((other ^ pattern) & 0x8000) !== 0 || other < 0 || other > 0xffff) return true;
    const value = decode(Uint16Array.of(other))[0] as number;
    if (!Number.isFinite(value)) return true;
    const d = Math.abs(value - x);
    return distance < d || (distance === d && (pattern & 1) === 0);
  });
}

describe.each([
  { name: 'float16', to: toFloat16, from: fromFloat16, largest: 65504 },
  { name: 'bfloat16', to: toBfloat16, from: fromBfloat16, largest: 3.3895313892515355e38 },
])('$name', ({ to, from, largest }) => {
  it('restores every pattern (NaNs stay NaN)', () => {
    const values = from(allPatterns);
    const back = to(values);
    for (let i = 0; i < 65536; i++) {
      if (Number.isNaN(values[i])) expect(from(back.subarray(i, i + 1))[0]).toBeNaN();
      else if (back[i] !== i) expect.fail(`pattern ${i} came back as ${back[i]}`);
    }
  });

  it('rounds to the nearest value, ties to even', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.float({ noNaN: true, noDefaultInfinity: true, min: -65504, max: 65504 }),
          fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e-4), max: Math.fround(1e-4) }),
        ),
        (x) => nearest(x, to(one(x))[0] as number, from),
      ),
      { numRuns: 2000 },
    );
    // Exact midpoints between neighbours.
    for (let i = 0; i < 0x7b00; i += 37) {
      const [a, b] = from(Uint16Array.of(i, i + 1)) as unknown as [number, number];
      const middle = (a + b) / 2;
      if (Math.fround(middle) === middle) expect(to(one(middle))[0]).toBe(i % 2 === 0 ? i : i + 1);
    }
  });

  it('keeps signed zeros and infinities, and overflows to infinity', () => {
    expect([...from(to(Float32Array.of(0, -0, Infinity, -Infinity, largest)))]).toEqual([
      0,
      -0,
      Infinity,
      -Infinity,
      largest,
    ]);
    expect(from(to(one(3.4028234663852886e38)))[0]).toBe(Infinity);
    expect(from(to(one(NaN)))[0]).toBeNaN();
  });
});

it('float16 switches to infinity at 65520', () => {
  expect([...fromFloat16(toFloat16(Float32Array.of(65519.996, 65520, -65520)))]).toEqual([65504, Infinity, -Infinity]);
});
