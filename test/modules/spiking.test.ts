import { expect, it } from 'vitest';
import { nn } from '../../src/modules/index.ts';
import { createRng, float32 } from '../../src/tensor/index.ts';
import { runModule } from './eager.ts';

const [BATCH, TIME, IN, OUT] = [3, 4, 5, 2];
const [DECAY, THRESHOLD, STEEPNESS] = [0.6, 0.8, 3];
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

it('leaky integrate-and-fire: spikes of a plain loop, and weight gradients from traces without going back in time', async () => {
  const rng = createRng(5);
  const x = Float32Array.from({ length: BATCH * TIME * IN }, () => (rng.uniform() < 0.5 ? 1 : 0));
  const weight = rng.fillNormal(new Float32Array(IN * OUT), 0, 0.5);
  const cotangent = rng.fillNormal(new Float32Array(BATCH * TIME * OUT), 0, 1);
  const spikes = new Float32Array(BATCH * TIME * OUT);
  const gradient = new Float32Array(IN * OUT);
  for (let b = 0; b < BATCH; b++) {
    const trace = new Float64Array(IN);
    const left = new Float64Array(OUT);
    for (let t = 0; t < TIME; t++) {
      const given = x.subarray((b * TIME + t) * IN, (b * TIME + t + 1) * IN);
      for (let i = 0; i < IN; i++) trace[i] = DECAY * (trace[i] as number) + (given[i] as number);
      for (let o = 0; o < OUT; o++) {
        let potential = left[o] as number;
        for (let i = 0; i < IN; i++) potential += (given[i] as number) * (weight[i * OUT + o] as number);
        const at = (b * TIME + t) * OUT + o;
        const fired = potential >= THRESHOLD ? 1 : 0;
        spikes[at] = fired;
        left[o] = DECAY * (potential - THRESHOLD * fired);
        const s = sigmoid(STEEPNESS * (potential - THRESHOLD));
        const delta = (cotangent[at] as number) * STEEPNESS * s * (1 - s);
        for (let i = 0; i < IN; i++)
          gradient[i * OUT + o] = (gradient[i * OUT + o] as number) + (trace[i] as number) * delta;
      }
    }
  }
  const options = { decay: DECAY, threshold: THRESHOLD, steepness: STEEPNESS };
  const run = await runModule(nn.leakyIntegrateAndFire(IN, OUT, options), [float32(x, [BATCH, TIME, IN])], {
    params: { 'm.synapses.weight': float32(weight, [IN, OUT]) },
    cotangents: [float32(cotangent, [BATCH, TIME, OUT])],
    gradients: true,
  });
  // Some fire, some do not, or there is nothing to tell apart.
  expect(spikes.some((value) => value === 0) && spikes.some((value) => value === 1)).toBe(true);
  expect([...(run.activations[0]?.data ?? [])]).toEqual([...spikes]);
  const index = run.fn.params.findIndex(({ path }) => path === 'm.synapses.weight');
  const found = run.gradients[index]?.data as Float32Array;
  for (const [i, value] of gradient.entries()) expect(found[i]).toBeCloseTo(value, 4);
});
