import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CommProtocolError,
  fromSigns,
  SIGN_BLOCK,
  sendUpdate,
  signBytes,
  toSigns,
  type UpdateCodecOptions,
  updateCodec,
} from '../../src/comm/index.ts';

const bits = (values: Float32Array) => [...new Uint32Array(values.buffer, values.byteOffset, values.length)];
const floats = (maxLength: number) =>
  fc
    .array(
      fc.oneof(
        { weight: 4, arbitrary: fc.float({ min: -1, max: 1, noNaN: true }) },
        { weight: 1, arbitrary: fc.constantFrom(0, -0, 1e-45, 1e-40, 60000, -3e38) },
      ),
      { maxLength },
    )
    .map((values) => Float32Array.from(values));
const seeded = { seed: 1, numRuns: 100 };
const norm = (values: Iterable<number>) => Math.sqrt([...values].reduce((sum, value) => sum + value * value, 0));
const wave = (length: number, phase = 0) =>
  Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7 + phase) * Math.exp(-((i * 7) % 50) / 10));

describe('signs with a scale', () => {
  it('are the mean magnitude of their block with each value its own sign; what came out goes through unchanged', () => {
    fc.assert(
      fc.property(floats(2500), (values) => {
        const bytes = new Uint8Array(signBytes(values.length));
        toSigns(values, bytes);
        const back = new Float32Array(values.length);
        fromSigns(bytes, back);
        values.forEach((value, i) => {
          const start = i - (i % SIGN_BLOCK);
          const block = values.subarray(start, start + SIGN_BLOCK);
          const mean = Math.fround(block.reduce((sum, x) => sum + Math.abs(x), 0) / block.length);
          expect(Math.abs(back[i] as number)).toBe(mean);
          if (value !== 0 && mean !== 0) expect(Math.sign(back[i] as number)).toBe(Math.sign(value));
        });
        const again = new Uint8Array(bytes.length);
        toSigns(back, again);
        expect(again).toEqual(bytes);
      }),
      seeded,
    );
  });

  it('never have a larger norm than the values, and what is not finite stays visible', () => {
    fc.assert(
      fc.property(floats(2500), (values) => {
        const back = values.slice();
        sendUpdate(updateCodec({ keep: 'all', values: 'sign' }), back, { seed: 0, left: null });
        expect(norm(back)).toBeLessThanOrEqual(norm(values) * (1 + 1e-6) + 1e-40);
      }),
      seeded,
    );
    const bytes = new Uint8Array(signBytes(3));
    const back = new Float32Array(3);
    toSigns(Float32Array.of(1, Number.NaN, 2), bytes);
    fromSigns(bytes, back);
    expect(back.every(Number.isNaN)).toBe(true);
    toSigns(Float32Array.of(1, Number.NEGATIVE_INFINITY, 2), bytes);
    fromSigns(bytes, back);
    expect([...back]).toEqual([Infinity, -Infinity, Infinity]);
    expect(() => fromSigns(bytes.subarray(1), back)).toThrow(CommProtocolError);
  });
});

const options: readonly (readonly [string, UpdateCodecOptions])[] = [
  ...(['f32', 'f16', 'bf16', 'int8', 'sign'] as const).flatMap((values) => [
    [`all as ${values}`, { keep: 'all', values }] as const,
    [`the largest as ${values}`, { keep: 'top', ratio: 0.1, values }] as const,
    [`drawn ones as ${values}`, { keep: 'random', ratio: 0.1, values, unbiased: false }] as const,
  ]),
];

describe.each(options)('an update with %s', (_, chosen) => {
  const codec = updateCodec(chosen);

  it('is the same bytes every time, and the bytes alone say what arrives', () => {
    fc.assert(
      fc.property(floats(600), fc.integer({ min: 0, max: 2 ** 32 - 1 }), (values, seed) => {
        const bytes = codec.encode(values, seed);
        expect(codec.encode(values.slice(), seed)).toEqual(bytes);
        const out = new Float32Array(values.length).fill(9);
        codec.decode(bytes, out);
        const again = new Float32Array(values.length).fill(-3);
        codec.decode(bytes, again);
        expect(bits(again)).toEqual(bits(out));
        if (chosen.keep !== 'top') expect(bytes).toHaveLength(codec.typicalBytes(values.length));
        // Values that are kept as they are come with their bits; nothing comes where nothing was.
        if (chosen.values === 'f32')
          for (let i = 0; i < out.length; i++)
            if (out[i] !== 0) expect(bits(out.subarray(i, i + 1))).toEqual(bits(values.subarray(i, i + 1)));
      }),
      seeded,
    );
  });

  it('with the errors kept: what arrives and what is left out add up to what was to be sent, over many rounds', () => {
    const size = 3000;
    let left = new Float32Array(size);
    const arrived = new Float64Array(size);
    const wanted = new Float64Array(size);
    for (let round = 0; round < 20; round++) {
      const values = wave(size, round);
      values.forEach((value, i) => {
        wanted[i] = (wanted[i] as number) + value;
      });
      const sent = sendUpdate(codec, values, { seed: round, left });
      left = sent.left as Float32Array<ArrayBuffer>;
      values.forEach((value, i) => {
        arrived[i] = (arrived[i] as number) + value;
      });
    }
    for (let i = 0; i < size; i++)
      expect((arrived[i] as number) + (left[i] as number)).toBeCloseTo(wanted[i] as number, 4);
    // And they stay bounded: by a few rounds' worth where one in ten is sent.
    expect(norm(left)).toBeLessThan(20 * norm(wave(size)));
  });

  it('refuses bytes that are cut, damaged, or of another length', () => {
    const values = wave(500);
    const bytes = codec.encode(values, 7);
    const out = new Float32Array(500);
    expect(() => codec.decode(bytes.slice(0, -1), out)).toThrow(CommProtocolError);
    expect(() => codec.decode(new Uint8Array(0), out)).toThrow(CommProtocolError);
    const longer = new Uint8Array(bytes.length + 4);
    longer.set(bytes);
    expect(() => codec.decode(longer, out)).toThrow(CommProtocolError);
    if (chosen.keep === 'top') {
      const damaged = bytes.slice();
      damaged.set([255, 255, 255, 127]);
      expect(() => codec.decode(damaged, out)).toThrow(CommProtocolError);
      const far = bytes.slice();
      far[far.length - 1] = 0x80;
      expect(() => codec.decode(far, out)).toThrow(CommProtocolError);
    }
  });
});

describe('the largest of an update', () => {
  it('are the largest, and take about as many bytes as was said', () => {
    const values = wave(10_000);
    const codec = updateCodec({ keep: 'top', ratio: 0.05, values: 'f32' });
    const bytes = codec.encode(values, 0);
    const out = new Float32Array(values.length);
    codec.decode(bytes, out);
    const kept = [...out].filter((value) => value !== 0);
    expect(kept).toHaveLength(500);
    const dropped = values.map((value, i) => (out[i] === 0 ? Math.abs(value) : 0));
    expect(Math.max(...dropped)).toBeLessThanOrEqual(Math.min(...kept.map(Math.abs)));
    expect(Math.abs(bytes.length / codec.typicalBytes(values.length) - 1)).toBeLessThan(0.05);
    // As int8, 5 % of the values are less than a twentieth of all bytes halved again.
    const small = updateCodec({ keep: 'top', ratio: 0.05, values: 'int8' }).encode(values, 0);
    expect((4 * values.length) / small.length).toBeGreaterThan(35);
  });

  it('are sent with a ratio that makes sense', () => {
    for (const ratio of [0, -1, 1.5, Number.NaN])
      expect(() => updateCodec({ keep: 'top', ratio, values: 'f32' })).toThrow(RangeError);
    expect(() => sendUpdate(updateCodec({ keep: 'all', values: 'f32' }), wave(3), { seed: 0, left: wave(2) })).toThrow(
      RangeError,
    );
  });
});

describe('drawn values', () => {
  it('are spread evenly, differ between seeds, and are right on average over seeds', () => {
    const values = wave(230);
    const codec = updateCodec({ keep: 'random', ratio: 0.1, values: 'f32', unbiased: true });
    const mean = new Float64Array(values.length);
    const draws = 1000;
    const seen = new Set<string>();
    for (let seed = 0; seed < draws; seed++) {
      const out = new Float32Array(values.length);
      codec.decode(codec.encode(values, seed), out);
      seen.add(out.map((value) => (value === 0 ? 0 : 1)).join(''));
      for (let run = 0; run < 23; run++)
        expect(out.subarray(10 * run, 10 * run + 10).filter((value) => value !== 0).length).toBeLessThanOrEqual(1);
      for (const [i, value] of out.entries()) mean[i] = (mean[i] as number) + value / draws;
    }
    expect(seen.size).toBe(draws);
    // The deviation of such a mean is 3 |x| / sqrt(draws).
    for (const [i, value] of values.entries())
      expect(Math.abs((mean[i] as number) - value)).toBeLessThan(5 * 3 * Math.abs(value) * draws ** -0.5 + 1e-6);
  });
});
