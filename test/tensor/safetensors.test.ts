import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  allocate,
  bytesOf,
  type DType,
  decodeSafetensors,
  encodeSafetensors,
  float32,
  type HostTensor,
  int32,
  openSafetensors,
  readSafetensors,
  SafetensorsError,
  sha256Of,
  sha256OfFile,
  sizeOf,
  toFloat16,
  writeSafetensors,
} from '../../src/tensor/index.ts';

const dtypes: DType[] = ['float32', 'int32', 'bool', 'uint8', 'int8', 'float16', 'bfloat16', 'int64'];
const tensor = fc
  .tuple(fc.constantFrom(...dtypes), fc.array(fc.nat(4), { maxLength: 3 }), fc.integer())
  .map(([dtype, shape, seed]): HostTensor => {
    const data = allocate(dtype, sizeOf(shape));
    const bytes = bytesOf(data);
    for (let i = 0; i < bytes.length; i++)
      bytes[i] = dtype === 'bool' ? (seed >> i) & 1 : Math.imul(seed + i, 2654435761) >>> 24;
    return { dtype, shape, data };
  });
const name = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
  .filter((n) => n !== '__metadata__' && n !== '__proto__');
const tensors = fc.dictionary(name, tensor, { maxKeys: 6, noNullPrototype: true });

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'safetensors-'));
});
afterAll(() => rm(dir, { recursive: true }));

/** A file built by hand, to test what `encodeSafetensors` would never write. */
function craft(header: unknown, dataBytes: number): Uint8Array {
  const json = typeof header === 'string' ? header : JSON.stringify(header);
  const text = new TextEncoder().encode(json);
  const out = new Uint8Array(8 + text.length + dataBytes);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  return out;
}

describe('the codec', () => {
  it('gives back what it was given, bit by bit', () => {
    fc.assert(
      fc.property(
        tensors,
        fc.dictionary(name, fc.string(), { maxKeys: 3, noNullPrototype: true }),
        (given, metadata) => {
          const decoded = decodeSafetensors(encodeSafetensors(given, metadata));
          expect({ ...decoded.metadata }).toEqual(metadata);
          expect(Object.keys(decoded.tensors).sort()).toEqual(Object.keys(given).sort());
          for (const [key, t] of Object.entries(given)) {
            expect(decoded.tensors[key]?.dtype).toBe(t.dtype);
            expect(decoded.tensors[key]?.shape).toEqual(t.shape);
            expect(bytesOf((decoded.tensors[key] as HostTensor).data)).toEqual(bytesOf(t.data));
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('lays out bytes as the specification says', () => {
    const bytes = encodeSafetensors(
      { b: int32([7], []), a: float32([1, 2], [2]), z: { dtype: 'bool', shape: [1], data: Uint8Array.of(1) } },
      { format: 'pt' },
    );
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    expect(length % 8).toBe(0);
    const header = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    expect(header[0]).toBe('{');
    expect(JSON.parse(header)).toEqual({
      __metadata__: { format: 'pt' },
      a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
      b: { dtype: 'I32', shape: [], data_offsets: [8, 12] },
      z: { dtype: 'BOOL', shape: [1], data_offsets: [12, 13] },
    });
    expect([...bytes.subarray(8 + length)]).toEqual([0, 0, 128, 63, 0, 0, 0, 64, 7, 0, 0, 0, 1]);
  });

  it('reads a file written by the reference implementation', () => {
    // Python: safetensors.numpy.save({'w': np.array([[1.5, -2]], np.float32), 'i': np.array([3], np.int64),
    // 'h': np.array([1, 2, 3], np.float16)}, {'step': '3'})
    const bytes = Uint8Array.from(
      Buffer.from(
        'c8000000000000007b225f5f6d657461646174615f5f223a7b2273746570223a2233227d2c2269223a7b226474797065223a2249' +
          '3634222c227368617065223a5b315d2c22646174615f6f666673657473223a5b302c385d7d2c2277223a7b226474797065223a22' +
          '463332222c227368617065223a5b312c325d2c22646174615f6f666673657473223a5b382c31365d7d2c2268223a7b2264747970' +
          '65223a22463136222c227368617065223a5b335d2c22646174615f6f666673657473223a5b31362c32325d7d7d20202020202020' +
          '03000000000000000000c03f000000c0003c00400042',
        'hex',
      ),
    );
    const { tensors, metadata } = decodeSafetensors(bytes);
    expect(tensors.i).toEqual({ dtype: 'int64', shape: [1], data: BigInt64Array.of(3n) });
    expect(tensors.w).toEqual(float32([1.5, -2], [1, 2]));
    expect(tensors.h).toEqual({ dtype: 'float16', shape: [3], data: toFloat16(Float32Array.of(1, 2, 3)) });
    expect(metadata).toEqual({ step: '3' });
    // Ours differs from it in the order of header keys only.
    expect(encodeSafetensors(tensors, metadata).length).toBe(bytes.length);
  });

  const entry = (start: number, end: number, shape = [(end - start) / 4], dtype = 'F32') => ({
    dtype,
    shape,
    data_offsets: [start, end],
  });
  it.each([
    ['too short', new Uint8Array(3), /at least 8 bytes, found 3/],
    ['a huge header', new Uint8Array(16).fill(255), /at most 100000000/],
    ['a header past the end', craft({}, 0).fill(9, 0, 1), /header ends at byte 17, but the file has 10/],
    ['no object', craft('[]', 0), /must begin with '\{' \(0x7b\), found 0x5b/],
    ['broken JSON', craft('{"a":', 0), /not valid JSON/],
    ['invalid UTF-8', craft('{"a"', 0).fill(0xff, 10, 11), /not valid JSON/],
    ['an unknown dtype', craft({ a: entry(0, 4, [1], 'F64') }, 4), /tensor 'a' has dtype "F64"; supported are F32/],
    ['a bad shape', craft({ a: entry(0, 4, [-1]) }, 4), /list of sizes as shape, found \[-1\]/],
    [
      'bad offsets',
      craft({ a: { dtype: 'F32', shape: [1], data_offsets: [0] } }, 4),
      /data_offsets \[start, end\], found \[0\]/,
    ],
    [
      'a size that does not fit',
      craft({ a: entry(0, 8, [3]) }, 8),
      /takes 12 bytes, but its data_offsets \[0,8\] span 8/,
    ],
    [
      'an overlap',
      craft({ a: entry(0, 8), b: entry(4, 12) }, 12),
      /tensor 'b' overlaps .* expected it to start at byte 8, found 4/,
    ],
    ['a gap', craft({ a: entry(0, 4), b: entry(8, 12) }, 12), /bytes 4 to 8 before tensor 'b' belong to no tensor/],
    ['missing data', craft({ a: entry(0, 8) }, 7), /describes 8 bytes of data, but 7 follow it: the file is truncated/],
    ['trailing data', craft({ a: entry(0, 8) }, 9), /describes 8 bytes of data, but 9 follow it/],
    ['metadata that is not strings', craft({ __metadata__: { a: 1 } }, 0), /__metadata__\.a must be a string, found 1/],
  ])('refuses %s', (_what, bytes, message) => {
    const decode = () => decodeSafetensors(bytes, 'some/file.safetensors');
    expect(decode).toThrow(SafetensorsError);
    expect(decode).toThrow(/^some\/file\.safetensors: /);
    expect(decode).toThrow(message);
  });

  it('refuses every truncation of a valid file', () => {
    const bytes = encodeSafetensors({ a: float32([1, 2, 3], [3]) });
    for (let n = 0; n < bytes.length; n++)
      expect(() => decodeSafetensors(bytes.subarray(0, n))).toThrow(SafetensorsError);
  });

  it('refuses a tensor whose memory does not fit its shape', () => {
    expect(() => encodeSafetensors({ a: { dtype: 'float32', shape: [3], data: new Float32Array(2) } })).toThrow(
      /should hold 12 bytes/,
    );
  });
});

describe('files', () => {
  const given = { 'a.w': float32([1, 2, 3, 4, 5, 6], [3, 2]), b: int32([1, 2], [2]) };

  it('are written as encoded, with their hash', async () => {
    const path = join(dir, 'x.safetensors');
    const written = await writeSafetensors(path, given, { step: '3' });
    const bytes = await readFile(path);
    expect(new Uint8Array(bytes)).toEqual(encodeSafetensors(given, { step: '3' }));
    expect(written).toEqual({ bytes: bytes.length, sha256: await sha256OfFile(path) });
  });

  it('are read by name, by rows, or whole', async () => {
    const path = join(dir, 'y.safetensors');
    const lazy = { dtype: 'float32', shape: [3, 2], load: async () => given['a.w'] } as const;
    await writeSafetensors(path, { ...given, 'a.w': lazy }, { step: '3' });
    const reader = await openSafetensors(path);
    expect({ ...reader.specs }).toEqual({
      'a.w': { dtype: 'float32', shape: [3, 2] },
      b: { dtype: 'int32', shape: [2] },
    });
    expect(reader.metadata).toEqual({ step: '3' });
    expect(await reader.read('b')).toEqual(given.b);
    expect(await reader.readRows('a.w', 1, 3)).toEqual(float32([3, 4, 5, 6], [2, 2]));
    expect((await reader.readRows('a.w', 2, 2)).shape).toEqual([0, 2]);
    await expect(reader.readRows('a.w', 1, 4)).rejects.toThrow(
      /rows 1 to 4 are not within tensor 'a.w' of shape \[3,2\]/,
    );
    await expect(reader.read('c')).rejects.toThrow(/y\.safetensors: there is no tensor 'c'; the file has a\.w, b/);
    await reader.close();
    expect({ ...(await readSafetensors(path, ['b'])).tensors }).toEqual({ b: given.b });
    expect({ ...(await readSafetensors(path)).tensors }).toEqual(given);
  });

  it('that are missing or truncated are refused by name', async () => {
    await expect(openSafetensors(join(dir, 'none.safetensors'))).rejects.toThrow(/none\.safetensors: cannot be opened/);
    const path = join(dir, 'cut.safetensors');
    const { bytes } = await writeSafetensors(path, given);
    await truncate(path, bytes - 5);
    await expect(readSafetensors(path)).rejects.toThrow(/cut\.safetensors: .* 32 bytes of data, but 27 follow it/);
    await writeFile(path, '');
    await expect(readSafetensors(path)).rejects.toThrow(SafetensorsError);
  });

  it('are not left behind when a tensor cannot be loaded', async () => {
    const path = join(dir, 'failed.safetensors');
    const failing = { dtype: 'float32', shape: [1], load: () => Promise.reject(new Error('device lost')) } as const;
    await expect(writeSafetensors(path, { ...given, z: failing })).rejects.toThrow('device lost');
    const other = { dtype: 'float32', shape: [1], load: async () => float32([1, 2], [2]) } as const;
    await expect(writeSafetensors(path, { z: other })).rejects.toThrow(
      /announced as float32 \[1\], but float32 \[2\] was loaded/,
    );
    expect(await readdir(dir)).not.toContain('failed.safetensors');
  });
});

it('sha256Of hashes data in path order, whatever the order of insertion', () => {
  const a = float32([1], []);
  const b = float32([2], []);
  expect(sha256Of({ a, b })).toBe(sha256Of({ b, a }));
  expect(sha256Of({ a, b })).not.toBe(sha256Of({ a: b, b: a }));
  // printf '\x00\x00\x80\x3f\x00\x00\x00\x40' | sha256sum
  expect(sha256Of({ a, b })).toBe('b9c80b5adeca450753a16950c3cc655d271f7bef7a485bc83f112b72fef21d37');
});
