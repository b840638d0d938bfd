import { describe, expect, it } from 'vitest';
import { smallRuns } from './run.ts';

const run = smallRuns();

/** Importance of the first layer's weights after the first of two tasks, of 96 examples each. */
async function importance(name: string, settings: object): Promise<Float32Array> {
  const scheduler = {
    epochs: 2,
    scenario: { stream: { name: 'split', tasks: 2 } },
    strategy: { name, lambda: 0, ...settings },
  };
  return (await run(scheduler)).tensor(`optim/${name}.importance/hidden.0.linear.weight`);
}

const total = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0);

describe.each(['ewc', 'online-ewc'])('importance of weights by %s', (name) => {
  it('is the same of whole batches with random signs, passed over again and again, as of one example a step', async () => {
    const single = await importance(name, { samples: 96 });
    const signs = await importance(name, { samples: 96 * 40, estimate: 'signs' });
    expect(total(single)).toBeGreaterThan(0);
    expect(total(signs) / total(single)).toBeCloseTo(1, 1);
    const off = single.map((value, i) => Math.abs((signs[i] as number) - value));
    expect(total(off) / total(single)).toBeLessThan(0.1);
    expect(Math.max(...off) / Math.max(...single)).toBeLessThan(0.2);
  });

  it('takes each example once in a pass', async () => {
    const once = await importance(name, { samples: 96 });
    const twice = await importance(name, { samples: 192 });
    expect(total(twice.map((value, i) => Math.abs(value - (once[i] as number)))) / total(once)).toBeLessThan(0.04);
  });
});
