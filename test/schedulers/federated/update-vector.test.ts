import { describe, expect, test } from 'vitest';
import { changeSince, normOf, plainChange } from '../../../src/schedulers/federated/update-vector.ts';
import { createRng } from '../../../src/tensor/index.ts';

function drawn(size: number, seed: number): Float32Array {
  return createRng(seed).fillNormal(new Float32Array(size), 0, 1);
}

describe('how parameters have changed', () => {
  test.each([0, 1, 3, 4, 4095, 4096, 4097, 10_001])('%i numbers: difference in float32, times the factor', (size) => {
    const [start, end] = [drawn(size, 1), drawn(size, 2)];
    const differences = end.map((value, i) => value - (start[i] as number));
    const update = end.slice();
    const norm = changeSince(start, update, 50);
    expect(update).toEqual(differences.map((value) => value * 50));
    expect(norm).toBeCloseTo(normOf(differences), 9);
  });

  test('the norm is in double precision: squares too large for float32', () => {
    const update = Float32Array.of(3e30, 4e30);
    expect(changeSince(new Float32Array(2), update)).toBeCloseTo(5e30, -24);
  });

  test('a vector inside of another is changed alone', () => {
    const whole = new Float32Array(30).fill(2);
    changeSince(new Float32Array(10).fill(1), whole.subarray(10, 20));
    expect([...whole]).toEqual(Array.from({ length: 30 }, (_, i) => (i >= 10 && i < 20 ? 1 : 2)));
  });

  test('without WebAssembly the bits are the same', () => {
    const [start, end] = [drawn(4096, 3), drawn(4096, 4)];
    const [plain, update] = [end.slice(), end.slice()];
    const squares = plainChange(plain, start)(4 * 4096, Math.fround(0.1));
    expect(Math.sqrt(squares)).toBe(changeSince(start, update, Math.fround(0.1)));
    expect(update).toEqual(plain);
  });
});
