import { describe, expect, it } from 'vitest';
import { fitScaleAndShift } from '../../../src/schedulers/continual/calibration.ts';
import { herd, normalised } from '../../../src/schedulers/continual/herding.ts';
import { createRng } from '../../../src/tensor/index.ts';
import { smallRuns } from './run.ts';

const run = smallRuns();

describe('herding', () => {
  it('takes whatever brings the mean nearest, one after another, as tried out by hand', () => {
    const [width, count] = [3, 6];
    const features = normalised(createRng(5).fillNormal(new Float32Array(12 * width)), width);
    const candidates = Int32Array.from([11, 2, 3, 5, 7, 8, 9, 10]);
    const row = (i: number) => [...features.slice(i * width, (i + 1) * width)];
    const meanOf = (rows: readonly number[]) =>
      row(0).map((_, d) => rows.reduce((sum, i) => sum + (row(i)[d] as number), 0) / rows.length);
    const goal = meanOf([...candidates]);
    const chosen: number[] = [];
    while (chosen.length < count) {
      const distance = (i: number) =>
        Math.hypot(
          ...meanOf([...chosen, i].map((at) => candidates[at] as number)).map((v, d) => v - (goal[d] as number)),
        );
      const free = [...candidates.keys()].filter((i) => !chosen.includes(i));
      chosen.push(free.reduce((best, i) => (distance(i) < distance(best) ? i : best)));
    }
    expect([...herd(features, width, candidates, count)]).toEqual(chosen);
    expect(new Set(herd(features, width, candidates, 100)).size).toBe(candidates.length);
  });
});

const scheduler = { epochs: 10, scenario: { stream: { name: 'split', tasks: 2 } } };

describe('icarl', () => {
  it('still tells the classes of the first task apart, from exemplars that are training examples of theirs', async () => {
    const icarl = await run({ ...scheduler, strategy: { name: 'icarl', buffer: 16 } });
    expect(icarl.last[0]).toBeGreaterThan(0.6);
    expect(icarl.last[1]).toBeGreaterThan(0.6);
    // Eight of each class of the first task, and four of each of the second's, which nobody needs any more.
    const made = await icarl.tensor('scheduler/made');
    expect(made).toHaveLength((2 * 8 + 2 * 4) * 4);
    const middle = (first: number, count: number) =>
      [0, 1, 2, 3].map(
        (d) =>
          Array.from({ length: count }, (_, i) => made[(first + i) * 4 + d] as number).reduce((a, b) => a + b) / count,
      );
    for (const [output, [first, count]] of [
      [0, 8],
      [8, 8],
      [16, 4],
      [20, 4],
    ].entries()) {
      const values = middle(first as number, count as number);
      expect(values.indexOf(Math.max(...values))).toBe(output);
    }
  });

  it('refuses tasks that share classes, and a budget that is too small', async () => {
    const shared = { ...scheduler.scenario, name: 'domain-incremental' };
    await expect(run({ ...scheduler, scenario: shared, strategy: { name: 'icarl' } })).rejects.toThrow(
      /set scenario.name to class-incremental/,
    );
    await expect(run({ ...scheduler, strategy: { name: 'icarl', buffer: 3 } })).rejects.toThrow(
      /exemplars of 4 classes/,
    );
  });
});

describe('bic', () => {
  it('fits the scale and the shift that no other pair near them betters', () => {
    const rng = createRng(9);
    const [width, rows] = [4, 60];
    const labels = Array.from({ length: rows }, (_, i) => i % 4);
    // Outputs 2 and 3 are twice as large as they should be, and too high.
    const logits = Float32Array.from({ length: rows * width }, (_, i) => {
      const [row, output] = [Math.floor(i / width), i % width];
      const plain = (labels[row] === output ? 1.5 : 0) + rng.normal();
      return output >= 2 ? 2 * plain + 3 : plain;
    });
    const data = { width, labels, over: [0, 1, 2, 3], changed: [2, 3] };
    const loss = (scale: number, shift: number) => {
      const each = labels.map((label, row) => {
        const values = data.over.map(
          (o) => (logits[row * width + o] as number) * (o >= 2 ? scale : 1) + (o >= 2 ? shift : 0),
        );
        return Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0)) - (values[label] as number);
      });
      return each.reduce((sum, value) => sum + value, 0) / rows;
    };
    const { scale, shift } = fitScaleAndShift(logits, data);
    expect(loss(scale, shift)).toBeLessThan(loss(1, 0) - 0.5);
    for (const [da, db] of [
      [0.05, 0],
      [-0.05, 0],
      [0, 0.05],
      [0, -0.05],
      [0.03, 0.05],
      [-0.03, 0.05],
    ] as const)
      expect(loss(scale + da, shift + db)).toBeGreaterThan(loss(scale, shift));
    // What was done to the outputs is undone, as far as sixty examples tell.
    expect(scale).toBeGreaterThan(0.3);
    expect(scale).toBeLessThan(0.9);
    expect(shift).toBeLessThan(-0.5);
  });

  it('corrects the newest outputs and no others, and knows all classes better for it', async () => {
    const bic = await run({ ...scheduler, strategy: { name: 'bic', buffer: 16, validation: 0.3 } });
    const correction = await bic.tensor('scheduler/kept/correction');
    expect([...correction.slice(0, 2), ...correction.slice(4, 6)]).toEqual([1, 1, 0, 0]);
    expect(correction[2]).toBe(correction[3]);
    expect([correction[2], correction[6]]).not.toEqual([1, 0]);
    expect(Math.min(...bic.last)).toBeGreaterThan(0.5);
  });
});
