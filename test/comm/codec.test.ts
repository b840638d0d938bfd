import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import {
  CODEC_NAMES,
  type CodecName,
  CommProtocolError,
  type CompressionOptions,
  codecNamed,
  codecOfTag,
  compressionSchema,
  compressTransport,
  createLoopbackTransports,
  decodeTensor,
  ErrorFeedback,
  encodeTensor,
  keepTop,
  scratch,
  type Transport,
} from '../../src/comm/index.ts';
import { float32, type HostTensor } from '../../src/tensor/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const bits = (values: Float32Array) => [...new Uint32Array(values.buffer, values.byteOffset, values.length)];

const anyFloats = fc
  .array(
    fc.oneof(
      { weight: 5, arbitrary: fc.float() },
      { weight: 3, arbitrary: fc.float({ min: -1, max: 1, noNaN: true }) },
      { weight: 3, arbitrary: fc.constantFrom(0, 0, 0, -0, 1e-45, 1e-40, 65504, 70000, -3.4e38) },
    ),
    { maxLength: 700 },
  )
  .map((values) => Float32Array.from(values));

function through(name: CodecName, values: Float32Array): { bytes: Uint8Array; back: Float32Array } {
  const codec = codecNamed(name);
  const bytes = new Uint8Array(codec.encodedBytes(values));
  codec.encode(values, bytes);
  const back = new Float32Array(values.length).fill(9);
  codec.decode(bytes, back);
  return { bytes, back };
}

describe.each(CODEC_NAMES)('codec %s', (name) => {
  it('is as long as it says; what came out once comes out again with the same bits; NaN stays NaN', () => {
    fc.assert(
      fc.property(anyFloats, (values) => {
        const { bytes, back } = through(name, values);
        expect(bytes).toHaveLength(codecNamed(name).encodedBytes(values));
        expect(bits(through(name, back).back)).toEqual(bits(back));
        values.forEach((value, i) => {
          if (Number.isNaN(value)) expect(back[i]).toBeNaN();
          if (value === Infinity || value === -Infinity) expect(back[i]).toBe(value);
        });
      }),
      { numRuns: 200 },
    );
  });

  it('errs within its bound', () => {
    const relative = { f16: 2 ** -11, bf16: 2 ** -8, int8: 0, sparse: 0 }[name];
    fc.assert(
      fc.property(fc.array(fc.float({ min: -60000, max: 60000, noNaN: true }), { maxLength: 300 }), (list) => {
        const values = Float32Array.from(list);
        const { back } = through(name, values);
        values.forEach((x, i) => {
          const block = values.subarray(i - (i % 256), i - (i % 256) + 256);
          // Half a step of the block, or half of the smallest denormal.
          const top = Math.max(...block.map(Math.abs));
          const absolute = { f16: 2 ** -25, bf16: 2 ** -134, int8: (top / 254) * (1 + 1e-6) + 1e-45, sparse: 0 }[name];
          expect(Math.abs(x - (back[i] as number))).toBeLessThanOrEqual(Math.abs(x) * relative + absolute);
          if (name === 'sparse') expect(bits(back.subarray(i, i + 1))).toEqual(bits(values.subarray(i, i + 1)));
        });
      }),
      { numRuns: 200 },
    );
  });

  it('carries shapes, empty and scalar tensors, in scratch memory where they came from there', () => {
    for (const shape of [[], [0], [3, 0, 2], [2, 3], [1000, 20]]) {
      const size = shape.reduce((a, b) => a * b, 1);
      const data = scratch.take(size).map((_, i) => (i % 7) - 3);
      const own = scratch.take(size);
      own.set(data);
      const pooled = scratch.owns(own.buffer);
      const back = decodeTensor(encodeTensor(codecNamed(name), float32(own, shape)));
      expect(back.shape).toEqual(shape);
      expect(scratch.owns(back.data.buffer)).toBe(pooled);
      expect(bits(back.data as Float32Array)).toEqual(bits(through(name, data).back));
    }
  });

  it('refuses bytes that are something else', () => {
    const whole = encodeTensor(codecNamed(name), float32([1, 2, 3, 0, 0, 0, 4], [7])).data as Uint8Array;
    const tensor = (data: Uint8Array): HostTensor => ({ dtype: 'uint8', shape: [data.length], data });
    expect(() => decodeTensor(tensor(new Uint8Array(0)))).toThrow(CommProtocolError);
    for (let length = 0; length < whole.length; length++)
      expect(() => decodeTensor(tensor(whole.slice(0, length)))).toThrow(CommProtocolError);
    const huge = whole.slice();
    huge.fill(255, 4, 8);
    expect(() => decodeTensor(tensor(huge))).toThrow(CommProtocolError);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (noise) => {
        const bytes = whole.slice();
        bytes.set(noise.subarray(0, bytes.length - 8), 8);
        try {
          decodeTensor(tensor(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(CommProtocolError);
        }
      }),
    );
  });
});

it('says how many bytes a codec takes', () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => (i % 100 === 50 ? i : 0));
  expect(codecNamed('f16').encodedBytes(values)).toBe(2000);
  expect(codecNamed('bf16').encodedBytes(values)).toBe(2000);
  expect(codecNamed('int8').encodedBytes(values)).toBe(1016);
  expect(codecNamed('sparse').encodedBytes(values)).toBe(4 + 10 * 5);
  // Dense values never take more than themselves and a count.
  expect(codecNamed('sparse').encodedBytes(values.fill(1))).toBe(4004);
});

describe('top-k', () => {
  it('keeps the largest magnitudes, the first of equal ones, and all of the rest as residual', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.float({ noNaN: true }), fc.integer({ min: -3, max: 3 })), {
          minLength: 1,
          maxLength: 400,
        }),
        fc.nat(400),
        (list, keep) => {
          const before = Float32Array.from(list);
          const values = before.slice();
          const residual = new Float32Array(values.length).fill(5);
          keepTop(values, keep, residual);
          const order = [...before.keys()].sort(
            (a, b) => Math.abs(before[b] as number) - Math.abs(before[a] as number) || a - b,
          );
          const kept = new Set(order.slice(0, keep));
          before.forEach((x, i) => {
            expect(values[i]).toBe(kept.has(i) ? x : 0);
            expect(residual[i]).toBe(kept.has(i) ? 0 : x);
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  it('sends NaN on, so that divergence is seen', () => {
    const values = Float32Array.of(1, Number.NaN, 1e30, 2);
    keepTop(values, 1, new Float32Array(4));
    expect(values).toEqual(Float32Array.of(0, Number.NaN, 0, 0));
  });

  it('loses nothing in the long run', () => {
    const feedback = new ErrorFeedback(50, 0.1);
    const sum = new Float64Array(50);
    const sent = new Float64Array(50);
    for (let step = 0; step < 200; step++) {
      const values = Float32Array.from({ length: 50 }, (_, i) => Math.fround(((i * 7 + step * 3) % 11) - 5));
      values.forEach((value, i) => {
        sum[i] = (sum[i] as number) + value;
      });
      feedback.apply(values);
      expect(values.filter((value) => value !== 0).length).toBeLessThanOrEqual(5);
      values.forEach((value, i) => {
        sent[i] = (sent[i] as number) + value;
      });
    }
    // Whole numbers, so that the accounts can be compared exactly.
    sum.forEach((value, i) => {
      expect((sent[i] as number) + (feedback.residual[i] as number)).toBe(value);
    });
    expect(() => new ErrorFeedback(50, 0)).toThrow('above 0');
  });
});

describe('compressed transport', () => {
  let open: Transport[] = [];
  afterEach(async () => {
    await Promise.all(open.map((transport) => transport.close()));
    open = [];
  });
  const pair = (options: Partial<CompressionOptions>) => {
    const full = compressionSchema.parse(options);
    open = createLoopbackTransports(2, { deadlineMs: 2000 }).map((transport) => compressTransport(transport, full));
    return open as [Transport, Transport];
  };

  it('encodes the edges of its classes and no others', async () => {
    const options = compressionSchema.parse({ gradients: 'int8', activations: 'f16' });
    expect(codecOfTag('act/s1/m0', options)?.name).toBe('f16');
    expect(codecOfTag('grad/s0/m3', options)?.name).toBe('f16');
    expect(codecOfTag('reduce/s0/dense/scatter/pieces', options)?.name).toBe('int8');
    expect(codecOfTag('outer/s0/dense/gather/pieces', options)?.name).toBe('int8');
    for (const tag of ['norms/gather/x', 'params/s0/gather/pieces', 'dispatch/s0.1/r0', 'reduce/s0/dense'])
      expect(codecOfTag(tag, options)).toBeNull();
    expect(codecOfTag('reduce/s0/scatter/pieces', compressionSchema.parse({ gradients: 'topk' }))?.name).toBe('sparse');
    const [plain] = createLoopbackTransports(2);
    open.push(plain as Transport);
    expect(compressTransport(plain as Transport, compressionSchema.parse({}))).toBe(plain);
  });

  it('delivers what the codec keeps, leaves other tensors alone, and counts what it spared', async () => {
    const [a, b] = pair({ activations: 'f16' });
    const values = Float32Array.from({ length: 512 }, (_, i) => i / 3);
    const nothing: HostTensor = { dtype: 'uint8', shape: [0], data: new Uint8Array(0) };
    const counts: HostTensor = { dtype: 'int32', shape: [2], data: Int32Array.of(70_000, 3) };
    const kept = values.slice();
    await a.send(1, 'act/s1/m0', [float32(values, [2, 256]), nothing, counts]);
    expect(values).toEqual(kept);
    const [tensor, empty, whole] = await b.recv(0, 'act/s1/m0');
    expect(tensor).toEqual(float32(through('f16', values).back, [2, 256]));
    expect(empty?.data).toHaveLength(0);
    expect(whole?.data).toEqual(Int32Array.of(70_000, 3));
    const { bytesSent, bytesSaved } = a.statistics();
    expect(bytesSent).toBe(1024 + 12 + 8);
    expect(bytesSaved).toBe(2048 - 1024 - 12);
    await a.send(1, 'act/s1/m1', [float32(values, [512])], { transfer: true });
    expect((await b.recv(0, 'act/s1/m1'))[0]?.data).toEqual(through('f16', kept).back);
    await a.send(1, 'other/x', [float32([1 / 3], [1])]);
    expect((await b.recv(0, 'other/x'))[0]?.data).toEqual(Float32Array.of(1 / 3));
  });

  it('settles values to what the others will read', async () => {
    const [a, b] = pair({ gradients: 'int8' });
    const tag = 'reduce/s0/dense/gather/pieces';
    const values = Float32Array.from({ length: 700 }, (_, i) => Math.sin(i) * 1e-3);
    expect(a.settle?.('act/s0/m0', values)).toBe(false);
    expect(a.settle?.(tag, values)).toBe(true);
    await a.send(1, tag, [float32(values, [700])]);
    expect(bits((await b.recv(0, tag))[0]?.data as Float32Array)).toEqual(bits(values));
  });
});
