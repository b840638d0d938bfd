import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksum,
  FIXED_HEADER_BYTES,
  FrameDecoder,
  FrameEncoder,
  type FrameFault,
  FrameReader,
  type FrameRoute,
  FrameWriter,
  MAX_HEADER_BYTES,
  MAX_TAG_BYTES,
} from '../../src/comm/index.ts';
import { allocate, bytesOf, bytesPerElement, type DType, type HostTensor } from '../../src/tensor/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const route: FrameRoute = { job: 'mnist', generation: 3, from: 1, to: 2 };
const LIMIT = 2 ** 20;

const dtype = fc.constantFrom<DType>('float32', 'int32', 'bool', 'uint8', 'int8', 'float16', 'bfloat16', 'int64');
const shape = fc.array(fc.nat({ max: 5 }), { maxLength: 4 });
const tag = fc.string({ unit: 'grapheme', maxLength: 40 });
const tensor = fc.tuple(dtype, shape, fc.nat()).map(([type, dims, seed]): HostTensor => {
  const data = allocate(
    type,
    dims.reduce((product, dim) => product * dim, 1),
  );
  const bytes = bytesOf(data);
  for (let i = 0; i < bytes.length; i++) bytes[i] = seed + i * 7;
  return { dtype: type, shape: dims, data };
});
const messages = fc.array(fc.record({ tag, tensors: fc.array(tensor, { maxLength: 4 }) }), { maxLength: 6 });

/** What a reader makes of a stream that comes in pieces of the given sizes, by `target` and `advance` or by `write`. */
function read(stream: Uint8Array, cuts: readonly number[], inPlace: boolean) {
  const got: { tag: string; tensors: readonly HostTensor[] }[] = [];
  const credits: [string, number][] = [];
  const faults: FrameFault[] = [];
  const goodbyes: string[] = [];
  const reader = new FrameReader(new FrameDecoder(route, LIMIT), {
    message: (name, tensors) => got.push({ tag: name, tensors }),
    credit: (channel, count) => credits.push([channel, count]),
    goodbye: (reason) => goodbyes.push(reason),
    fault: (fault) => faults.push(fault),
  });
  for (let at = 0, i = 0; at < stream.length; i++) {
    const piece = stream.subarray(at, at + Math.max(1, cuts[i % cuts.length] ?? stream.length));
    if (inPlace) {
      const target = reader.target();
      const count = Math.min(target.length, piece.length);
      target.set(piece.subarray(0, count));
      reader.advance(count);
      at += count;
    } else {
      reader.write(piece);
      at += piece.length;
    }
  }
  return { got, credits, faults, goodbyes };
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces));
}

describe('frames', () => {
  it('agree with CRC-32 as everybody knows it', () => {
    expect(checksum(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
  });

  it('come back as they were written, however the stream is cut', () => {
    fc.assert(
      fc.property(
        messages,
        fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1 }),
        fc.boolean(),
        fc.boolean(),
        (sent, cuts, inPlace, checked) => {
          const writer = new FrameWriter(route, checked);
          const stream = concat([
            ...sent.flatMap((message) => writer.message(message.tag, message.tensors)),
            writer.credit('act/s1', 17),
            writer.close('done'),
          ]);
          const { got, credits, faults, goodbyes } = read(stream, cuts, inPlace);
          expect(faults).toEqual([]);
          expect(got).toEqual(sent);
          expect([credits, goodbyes]).toEqual([[['act/s1', 17]], ['done']]);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('read large data straight into its tensor', () => {
    const data = new Float32Array(100_000).map((_, i) => i);
    const stream = concat(new FrameWriter(route, true).message('x', [{ dtype: 'float32', shape: [100_000], data }]));
    const { got, faults } = read(stream, [65_536], true);
    expect(faults).toEqual([]);
    expect(got[0]!.tensors[0]!.data).toEqual(data);
  });

  it('a changed bit never yields a different message: it is dropped and counted', () => {
    const writer = new FrameWriter(route, true);
    const sent: HostTensor[] = [
      { dtype: 'float32', shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
      { dtype: 'int64', shape: [1], data: BigInt64Array.of(-1n) },
    ];
    const stream = concat(writer.message('act/s1/m2', sent));
    fc.assert(
      fc.property(fc.nat({ max: stream.length * 8 - 1 }), fc.integer({ min: 1, max: 200 }), (bit, cut) => {
        const changed = stream.slice();
        changed[bit >> 3]! ^= 1 << (bit & 7);
        const { got, faults } = read(changed, [cut], bit % 2 === 0);
        expect(got).toEqual([]);
        // (A length that has grown leaves the reader waiting for more.)
        expect(faults.length).toBeLessThanOrEqual(1);
      }),
      { numRuns: 400 },
    );
  });

  it('random and mutated bytes are faults, never exceptions, and never make it take more than it may', () => {
    const decoder = new FrameDecoder(route, LIMIT);
    const good = concat(
      new FrameWriter(route, true).message('t', [{ dtype: 'uint8', shape: [9], data: new Uint8Array(9) }]),
    );
    let seed = 12345;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed;
    };
    let accepted = 0;
    for (let run = 0; run < 100_000; run++) {
      const bytes = good.slice(0, run % 3 === 0 ? random() % (good.length + 1) : good.length);
      for (let change = run % 5; change >= 0 && bytes.length > 0; change--)
        bytes[random() % bytes.length] = random() >>> 24;
      const frame = decoder.decode(bytes);
      if (typeof frame === 'string') continue;
      accepted += 1;
      // (Only a change of the data, which a header does not cover, or of a byte to what it was.)
      expect(frame).toMatchObject({ tag: 't', dataBytes: 9, shape: [9], dtype: 'uint8' });
    }
    expect(accepted).toBeLessThan(25_000);
    for (let run = 0; run < 2000; run++) {
      const bytes = Uint8Array.from({ length: 200 }, () => random() >>> 24);
      bytes.set(good.subarray(0, run % 12));
      expect(read(bytes, [64], false).got).toEqual([]);
    }
  });

  it('of another job, generation, version, peer or size are told apart', () => {
    const decoder = new FrameDecoder(route, 100);
    const fault = (other: Partial<FrameRoute>, bytes = 4) =>
      decoder.decode(
        new FrameEncoder({ ...route, ...other }).encode(
          { kind: 'data', dtype: 'uint8', shape: [bytes], parts: 1 },
          new Uint8Array(bytes),
        ),
      );
    expect(fault({})).toMatchObject({ kind: 'data', dataBytes: 4 });
    expect(fault({ job: 'other' })).toBe('job');
    expect(fault({ generation: 2 })).toBe('generation');
    expect(fault({ from: 2 })).toBe('peer');
    expect(fault({ to: 0 })).toBe('peer');
    expect(fault({}, 101)).toBe('oversized');
    const newer = new FrameEncoder(route).encode({ kind: 'close' }).slice();
    newer[4] = 9;
    expect(decoder.decode(newer)).toBe('version');
    expect(decoder.decode(new Uint8Array(FIXED_HEADER_BYTES))).toBe('not-a-frame');
    expect(decoder.decode(new Uint8Array(3))).toBe('not-a-frame');
  });

  it('a lost, repeated or swapped frame of a stream is noticed', () => {
    const pieces = [1, 2, 3].flatMap((value) =>
      new Array(1).fill(0).map(() => ({ dtype: 'int32' as const, shape: [], data: Int32Array.of(value) })),
    );
    const writer = new FrameWriter(route, true);
    const frames = pieces.map((one) => concat(writer.message('x', [one])));
    for (const order of [
      [0, 2],
      [0, 0, 1],
      [1, 0, 2],
    ]) {
      const { faults } = read(concat(order.map((i) => frames[i]!)), [100], false);
      expect(faults).toEqual(['corrupt']);
    }
  });

  it('refuse to write what no reader takes', () => {
    const encoder = new FrameEncoder(route);
    expect(() => encoder.encode({ kind: 'data', tag: 'x'.repeat(MAX_TAG_BYTES + 1) })).toThrow(/more than 512 bytes/);
    expect(() => encoder.encode({ kind: 'data', shape: new Array(17).fill(1) })).toThrow(/more than 16 dimensions/);
    expect(() => encoder.encode({ kind: 'data', parts: 1, dtype: 'float32', shape: [2] }, new Uint8Array(4))).toThrow(
      /float32 tensor of shape \[2\] has 8 bytes, not 4/,
    );
    expect(() => new FrameEncoder({ ...route, generation: -1 })).toThrow(/generation must be an integer/);
    const longest = encoder.encode({ kind: 'close', tag: 'é'.repeat(MAX_TAG_BYTES / 2), shape: new Array(16).fill(9) });
    expect(longest.length).toBe(MAX_HEADER_BYTES);
    expect(new FrameDecoder(route, 0).decode(longest)).toMatchObject({ kind: 'close' });
    expect(bytesPerElement('bfloat16')).toBe(2);
  });
});
