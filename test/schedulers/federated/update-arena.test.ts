import { describe, expect, test } from 'vitest';
import { UpdateArena } from '../../../src/schedulers/federated/update-arena.ts';
import { plainKernels, updateKernels } from '../../../src/schedulers/federated/update-kernels.ts';
import { normOf, scaleBy } from '../../../src/schedulers/federated/update-vector.ts';
import { createRng } from '../../../src/tensor/index.ts';

function drawn(size: number, seed: number): Float32Array {
  return createRng(seed).fillNormal(new Float32Array(size), 0, 1);
}

/** An arena that measures from a start, of one part or of several. */
function arenaFrom(...parts: readonly Float32Array[]): UpdateArena {
  const arena = new UpdateArena(
    parts.reduce((sum, { length }) => sum + length, 0),
    3,
  );
  arena.begin(...parts);
  return arena;
}

describe('how parameters have changed', () => {
  test.each([0, 1, 3, 4, 4095, 4096, 4097, 10_001])('%i numbers: difference in float32, times the factor', (size) => {
    const [start, end] = [drawn(size, 1), drawn(size, 2)];
    const differences = end.map((value, i) => value - (start[i] as number));
    const arena = arenaFrom(start);
    const [inside, elsewhere] = [arena.take(), new Float32Array(size)];
    const middle = Math.floor(size / 3);
    const parts = [
      { offset: 0, data: end.subarray(0, middle) },
      { offset: middle, data: end.subarray(middle) },
    ];
    const norm = arena.change(inside, 0, size, parts, 50);
    expect(inside).toEqual(differences.map((value) => value * 50));
    expect(norm).toBeCloseTo(normOf(differences), 9);
    // The same bits wherever it is written, and where it is written over what it was made of.
    expect(arena.change(elsewhere, 0, size, parts, 50)).toBe(norm);
    expect(elsewhere).toEqual(inside);
    inside.set(end);
    expect(arena.change(inside, 0, size, [{ offset: 0, data: inside }], 50)).toBe(norm);
    expect(inside).toEqual(elsewhere);
  });

  test('the norm is in double precision: squares too large for float32', () => {
    const arena = arenaFrom(new Float32Array(2));
    const end = [{ offset: 0, data: Float32Array.of(3e30, 4e30) }];
    expect(arena.change(arena.take(), 0, 2, end)).toBeCloseTo(5e30, -24);
  });

  test('elements of a vector are changed alone, and measured from the start of their own', () => {
    const arena = arenaFrom(new Float32Array(10).fill(1), new Float32Array(5).fill(7));
    const update = arena.take().fill(-3);
    expect(arena.change(update, 10, 15, [{ offset: 10, data: new Float32Array(5).fill(9) }])).toBeCloseTo(4.4721, 4);
    expect([...update]).toEqual([...new Array<number>(10).fill(-3), ...new Array<number>(5).fill(2)]);
  });

  test('without WebAssembly the bits are the same', () => {
    const [start, end] = [drawn(4096, 3), drawn(4096, 4)];
    const [fast, plain] = [updateKernels(32_768), plainKernels(32_768)].map((kernels) => {
      const values = new Float32Array(kernels.memory.buffer);
      values.set(end);
      values.set(start, 4096);
      const squares = kernels.change(0, 0, 16_384, 16_384, Math.fround(0.1));
      kernels.add(0, 0, 16_384, 16_384);
      return [squares, ...values.subarray(0, 4096)];
    });
    expect(fast).toEqual(plain);
  });
});

describe('adding updates up', () => {
  test.each([1, 5, 160, 4099])('%i numbers, in the arena or elsewhere', (size) => {
    const arena = arenaFrom(new Float32Array(size));
    const [left, right] = [drawn(size, 5), drawn(size, 6)];
    const expected = left.map((value, i) => value + (right[i] as number));
    const [a, b, neighbour] = [arena.take(), arena.take(), arena.take().fill(1)];
    a.set(left);
    b.set(right);
    arena.add(a, b);
    expect(a).toEqual(expected);
    expect(b).toEqual(right);
    a.set(left);
    arena.add(a, right);
    expect(a).toEqual(expected);
    arena.add(left, b);
    expect(left).toEqual(expected);
    expect(neighbour).toEqual(new Float32Array(size).fill(1));
  });

  test('vectors that were taken back are lent again; more than there is room for are elsewhere', () => {
    const arena = arenaFrom(new Float32Array(8));
    const all = Array.from({ length: 5 }, () => arena.take());
    expect(new Set(all).size).toBe(5);
    expect(new Set(all.map(({ buffer }) => buffer)).size).toBe(3);
    for (const vector of all) arena.give(vector);
    expect(all).toContain(arena.take());
    const [, , , fourth, fifth] = all as Float32Array[];
    fourth?.fill(2);
    fifth?.fill(3);
    arena.add(fourth as Float32Array, fifth as Float32Array);
    expect(fourth).toEqual(new Float32Array(8).fill(5));
  });

  test('a vector is scaled in place', () => {
    const values = Float32Array.of(1, -2);
    scaleBy(values, 3);
    expect([...values]).toEqual([3, -6]);
  });
});
