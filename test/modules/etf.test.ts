import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nn } from '../../src/modules/index.ts';
import { createRng, float32 } from '../../src/tensor/index.ts';
import { runModule, wave } from './eager.ts';

const [inputs, classes, batch] = [5, 3, 4];
const features = float32(
  Float32Array.from({ length: batch * inputs }, (_, i) => Math.sin(i * 1.9)),
  [batch, inputs],
);

describe('simplex equiangular tight frame', () => {
  it('has unit columns that all meet at the same angle, the widest there is', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 12 }), fc.integer({ min: 0, max: 20 }), fc.nat(), (count, more, seed) => {
        const dim = count + more;
        const frame = nn.simplexEtf(createRng(seed), [dim, count]);
        for (let a = 0; a < count; a++)
          for (let b = 0; b < count; b++) {
            let product = 0;
            for (let i = 0; i < dim; i++)
              product += (frame[i * count + a] as number) * (frame[i * count + b] as number);
            expect(product).toBeCloseTo(a === b ? 1 : -1 / (count - 1), 5);
          }
      }),
      { seed: 1, numRuns: 30 },
    );
  });

  it('refuses fewer dimensions than classes', () => {
    expect(() => nn.simplexEtf(createRng(1), [3, 4])).toThrow(/at least as many dimensions/);
  });
});

describe('classifiers by direction', () => {
  /** Cosines of the rows of x [n, d] and the columns of w [d, c], one by one. */
  const cosines = (x: readonly (readonly number[])[], w: (i: number, c: number) => number, count: number) =>
    x.map((row) =>
      Array.from({ length: count }, (_, c) => {
        const product = row.reduce((sum, value, i) => sum + value * w(i, c), 0);
        return product / Math.hypot(...row) / Math.hypot(...row.map((_, i) => w(i, c)));
      }),
    );
  const rows = Array.from({ length: batch }, (_, r) =>
    [...features.data.slice(r * inputs, (r + 1) * inputs)].map(Number),
  );

  it('with a fixed frame: temperature times cosines of projected features; the frame gets no gradient', async () => {
    const params = {
      'm.projection.weight': wave([inputs, inputs], 3),
      'm.projection.bias': wave([inputs], 4),
      'm.temperature': float32(Float32Array.of(7), [1]),
    };
    const module = nn.etfClassifier(inputs, classes);
    const run = await runModule(module, [features], { params, gradients: true });
    const frame = nn.simplexEtf(createRng(1).fork('param', 'm.frame'), [inputs, classes]);
    const projected = rows.map((row) =>
      Array.from({ length: inputs }, (_, o) =>
        row.reduce(
          (sum, value, i) => sum + value * (params['m.projection.weight'].data[i * inputs + o] as number),
          params['m.projection.bias'].data[o] as number,
        ),
      ),
    );
    const expected = cosines(projected, (i, c) => frame[i * classes + c] as number, classes).flat();
    expect(run.activations[0]?.shape).toEqual([batch, classes]);
    expected.forEach((value, i) => {
      expect(run.activations[0]?.data[i]).toBeCloseTo(7 * value, 4);
    });
    const gradientOf = (path: string) => run.gradients[run.fn.params.findIndex((param) => param.path === path)];
    expect(gradientOf('m.frame')?.data.every((value) => value === 0) ?? true).toBe(true);
    expect(gradientOf('m.projection.weight')?.data.some((value) => value !== 0)).toBe(true);
    expect(gradientOf('m.temperature')?.data.some((value) => value !== 0)).toBe(true);
    const tuned = await runModule(nn.etfClassifier(inputs, classes, { trainable: true }), [features], {
      params,
      gradients: true,
    });
    expect(tuned.activations[0]?.data).toEqual(run.activations[0]?.data);
    expect(tuned.gradients[0]?.data.some((value) => value !== 0)).toBe(true);
  });

  it('with learned directions: lengths of weights and features do not matter', async () => {
    const weight = wave([inputs, classes], 2);
    const run = await runModule(nn.cosineClassifier(inputs, classes, { temperature: 3 }), [features], {
      params: { 'm.weight': weight },
    });
    cosines(rows, (i, c) => weight.data[i * classes + c] as number, classes)
      .flat()
      .forEach((value, i) => {
        expect(run.activations[0]?.data[i]).toBeCloseTo(3 * value, 5);
      });
    const long = await runModule(nn.cosineClassifier(inputs, classes, { temperature: 3 }), [features], {
      params: {
        'm.weight': float32(
          Float32Array.from(weight.data as Float32Array, (value) => 5 * value),
          weight.shape,
        ),
      },
    });
    run.activations[0]?.data.forEach((value: number, i: number) => {
      expect(long.activations[0]?.data[i]).toBeCloseTo(value, 5);
    });
  });
});
