import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { digestOf } from '../../src/worker/snapshot-digest.ts';

const bits = fc.uint8Array({ minLength: 4, maxLength: 400 }).map((bytes) => bytes.slice(0, bytes.length & ~3));
const floats = (bytes: Uint8Array) => new Float32Array(bytes.slice().buffer);

describe('the digest of a tensor', () => {
  it('is the same for the same bits, wherever they lie, and another where any bit differs', () =>
    fc.assert(
      fc.property(bits, fc.nat(), (bytes, where) => {
        const digest = digestOf(floats(bytes));
        const shared = new Float32Array(new SharedArrayBuffer(bytes.length + 64), 64, bytes.length / 4);
        new Uint8Array(shared.buffer, 64).set(bytes);
        expect(digestOf(shared)).toBe(digest);
        const bit = where % (8 * bytes.length);
        const flipped = bytes.slice();
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        expect(digestOf(floats(flipped))).not.toBe(digest);
      }),
    ));

  it('is that of FNV-1a over words', () => {
    // One word, 0x40490fdb: (0x811c9dc5 ^ 0x40490fdb) * 0x01000193, of 32 bits.
    const one = Number((BigInt(0x811c9dc5 ^ 0x40490fdb) * 0x01000193n) & 0xffffffffn).toString(16);
    expect(digestOf(Float32Array.of(Math.PI))).toBe(`${one.padStart(8, '0')}${'811c9dc5'.repeat(3)}`);
  });
});
