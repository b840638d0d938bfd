import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cosTurns, createRng, logOfInteger, permutation, sinTurns } from '../../src/tensor/index.ts';
import { threefry2x32 } from '../../src/tensor/threefry.ts';

describe('threefry2x32', () => {
  // Known answers of the Random123 distribution (tests/kat_vectors).
  it.each([
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x13198a2e, 0x03707344],
      [0x243f6a88, 0x85a308d3],
      [0xc4923a9c, 0x483df7a0],
    ],
  ])('of key %j and counter %j is %j', (key, counter, expected) => {
    const out = new Uint32Array(2);
    threefry2x32(key[0] as number, key[1] as number, counter[0] as number, counter[1] as number, out, 0);
    expect([...out]).toEqual(expected);
  });

  it('gives the words of many counters at once, beyond 32 bits too', () => {
    const many = new Uint32Array(9).fill(5);
    threefry2x32(0x13198a2e, 0x93707344, 0xfffffffe, 7, many, 1, 4);
    const single = new Uint32Array(9).fill(5);
    for (let i = 0; i < 4; i++) {
      const low = 0xfffffffe + i;
      threefry2x32(0x13198a2e, 0x93707344, low >>> 0, low > 0xffffffff ? 8 : 7, single, 1 + 2 * i);
    }
    expect([...many]).toEqual([...single]);
  });
});

describe('exact math', () => {
  it('agrees with Math to a few ulp', () => {
    fc.assert(
      fc.property(fc.double({ min: -8, max: 8, noNaN: true }), fc.integer({ min: 0, max: 0xffffffff }), (x, bits) => {
        expect(Math.abs(sinTurns(x) - Math.sin(2 * Math.PI * x))).toBeLessThan(1e-14);
        expect(Math.abs(cosTurns(x) - Math.cos(2 * Math.PI * x))).toBeLessThan(1e-14);
        expect(Math.abs(logOfInteger(bits + 1) - Math.log(bits + 1))).toBeLessThan(8e-15);
      }),
    );
    expect([0, 0.25, 0.5, 0.75].map((x) => cosTurns(x) + 0)).toEqual([1, 0, -1, 0]);
  });
});

describe('createRng', () => {
  it('gives fixed numbers for a seed', () => {
    const rng = createRng(1234);
    expect([rng.uint32(), rng.uint32(), rng.uint32()]).toMatchInlineSnapshot(`
      [
        377380382,
        3179393206,
        2937537304,
      ]
    `);
    const normals = createRng('seed').fork('w').fillNormal(new Float32Array(3), 0, 1);
    expect([...normals]).toMatchInlineSnapshot(`
      [
        -0.44726547598838806,
        -0.798986554145813,
        0.5875483751296997,
      ]
    `);
  });

  it('forks by key, whatever was drawn before, and keeps different keys apart', () => {
    const parent = createRng(7);
    const before = parent.fork('a', 1).uint32();
    parent.fillNormal(new Float32Array(5));
    expect(parent.fork('a', 1).uint32()).toBe(before);
    expect(parent.fork('a').fork(1).uint32()).toBe(before);
    const others = [['a', '1'], ['a1'], ['a'], [1, 'a'], ['a', 1, ''], ['a', -1], ['a', 2 ** 32 + 1], []].map((keys) =>
      parent.fork(...keys).uint32(),
    );
    expect(new Set([before, ...others]).size).toBe(others.length + 1);
    expect(createRng('7').uint32()).not.toBe(createRng(7).uint32());
  });

  it('fills in bulk what single calls draw', () => {
    const single = createRng(3);
    const bulk = createRng(3).fillUniform(new Float32Array(7));
    expect([...bulk]).toEqual(Array.from(bulk, () => single.uniform()));
    const rng = createRng(5);
    rng.uint32();
    expect(rng.normal()).toBeCloseTo(createRng(5).fillNormal(new Float32Array(4))[2] as number, 6);
  });

  it('fills with the normals of the plain formula, to the bit, in arrays of any length', () => {
    for (const length of [0, 1, 511, 512, 5001]) {
      const words = createRng(8);
      const expected = new Float32Array(length);
      for (let i = 0; i < length; i += 2) {
        const r = 0.3 * Math.sqrt(2 * (logOfInteger(2 ** 32) - logOfInteger(words.uint32() + 1)));
        const turns = words.uint32() * 2 ** -32;
        expected[i] = 1 + r * cosTurns(turns);
        if (i + 1 < length) expected[i + 1] = 1 + r * sinTurns(turns);
      }
      const rng = createRng(8);
      expect(rng.fillNormal(new Float32Array(length), 1, 0.3)).toEqual(expected);
      expect(rng.uint32()).toBe(words.uint32());
    }
  });

  it('draws uniforms and normals with the right moments', () => {
    const n = 200_000;
    const uniform = createRng(11).fillUniform(new Float32Array(n), -1, 3);
    const normal = createRng(12).fillNormal(new Float32Array(n), 2, 0.5);
    const mean = (x: Float32Array) => x.reduce((a, b) => a + b, 0) / n;
    const moment = (x: Float32Array, m: number, p: number) => x.reduce((a, b) => a + (b - m) ** p, 0) / n;
    expect(mean(uniform)).toBeCloseTo(1, 1.9);
    expect(uniform.every((x) => x >= -1 && x < 3)).toBe(true);
    expect(mean(normal)).toBeCloseTo(2, 2);
    expect(moment(normal, 2, 2)).toBeCloseTo(0.25, 2);
    expect(moment(normal, 2, 4)).toBeCloseTo(3 * 0.0625, 2);
    expect(Math.abs(moment(normal, 2, 3))).toBeLessThan(0.005);
  });

  it('draws unbiased integers and refuses impossible bounds', () => {
    const rng = createRng(2);
    const counts = new Int32Array(10);
    for (let i = 0; i < 100_000; i++) {
      const value = rng.integer(10);
      counts[value] = (counts[value] as number) + 1;
    }
    const chi2 = counts.reduce((sum, c) => sum + (c - 10_000) ** 2 / 10_000, 0);
    expect(chi2).toBeLessThan(27.9); // 0.1 % point with nine degrees of freedom
    for (const bound of [0, -1, 1.5, NaN, 2 ** 32 + 1]) expect(() => rng.integer(bound)).toThrow(RangeError);
  });

  it('refuses seeds that are not safe integers', () => {
    for (const seed of [0.5, NaN, 2 ** 60]) expect(() => createRng(seed)).toThrow(/safe integer/);
  });
});

describe('permutation', () => {
  it('holds every index once and is keyed by the generator', () => {
    fc.assert(
      fc.property(fc.nat(200), fc.integer(), (n, seed) => {
        const order = permutation(n, createRng(seed));
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(order).toEqual(permutation(n, createRng(seed)));
      }),
      { numRuns: 50 },
    );
  });

  it('is uniform over the orders of three', () => {
    const counts = new Map<string, number>();
    const rng = createRng(9);
    for (let i = 0; i < 6000; i++) {
      const key = permutation(3, rng).join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });
});
