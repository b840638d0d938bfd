import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { DeviceTensor } from '../../src/engine/index.ts';
import { createEngine } from '../../src/engine/index.ts';
import type { TaskInfo } from '../../src/modules/index.ts';
import { buildModel, evaluationKey, modelFunctions, modelParams } from '../../src/modules/index.ts';
import { buildOptimizer, optimSchema, updateFunction } from '../../src/optim/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { scalar, zeros } from '../../src/tensor/index.ts';
import { compileLayer, runPhases } from '../modules/phased.ts';
import { hashedParams, hashedTokens } from './hashed.ts';

const golden = JSON.parse(readFileSync(new URL('./transformer-losses.json', import.meta.url), 'utf8')) as {
  readonly lr: number;
  readonly betas: [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  readonly losses: number[];
};

it('a 4-layer transformer follows the losses of PyTorch over 50 steps of AdamW', async () => {
  const [batch, time, vocab] = [4, 16, 32];
  const tokens = { dtype: 'int32', shape: [time] } as const;
  const info: TaskInfo = { inputs: [tokens], targets: [tokens], vocabSize: vocab };
  const { model } = await buildModel(
    { name: 'transformer-lm', args: { layers: 4, dim: 32, heads: 4, ffn: { hidden: 128 } } },
    info,
  );
  const specs = modelParams(model);
  const params = hashedParams(specs);
  const { lr, betas, eps, weightDecay } = golden;
  const { optimizer } = buildOptimizer(
    optimSchema.parse({ name: 'adamw', lr, betas, eps, weight_decay: weightDecay, schedule: { name: 'constant' } }),
    { totalSteps: golden.losses.length },
  );

  const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
  try {
    const functions = modelFunctions(model, info, batch, 'train');
    const layers = await Promise.all(functions.map(async (fn) => ({ fn, phased: await compileLayer(engine, fn) })));
    const updates = new Map(
      await Promise.all(
        specs.map(async ({ path, spec }) => {
          const { fn, signature } = updateFunction(optimizer, { path, ...spec }, { clipping: false });
          const slots = optimizer.slots({ path, ...spec }).map(() => zeros('float32', spec.shape));
          return [path, { executable: await engine.compile(fn, signature), slots }] as const;
        }),
      ),
    );
    const losses: number[] = [];
    for (let step = 0; step < golden.losses.length; step++) {
      const [inputs, targets] = hashedTokens(step, batch, time, vocab);
      const gradients = new Map<string, HostTensor>();
      // Forward with all phases run: the backward is run again below, with the cotangents of the layer after.
      const given: HostTensor[][] = [];
      let activations: HostTensor[] = [inputs];
      for (const { fn, phased } of layers) {
        const own = fn.params.map(({ path }) => params[path] as HostTensor);
        const last = fn.layout.activations.length === 0;
        given.push([...own, evaluationKey(), ...activations, ...(last ? [targets] : [])]);
        const { outputs } = await runPhases(engine, fn, phased, given.at(-1) as HostTensor[], []);
        activations = outputs.slice(0, fn.layout.objective);
        if (last) losses.push(outputs[fn.layout.objective]?.data[0] as number);
      }
      let cotangents: (HostTensor | null)[] = [];
      for (let i = layers.length - 1; i >= 0; i--) {
        const { fn, phased } = layers[i] as (typeof layers)[number];
        const run = await runPhases(engine, fn, phased, given[i] as HostTensor[], cotangents);
        for (const [p, { path }] of fn.params.entries()) gradients.set(path, run.gradients[p] as HostTensor);
        cotangents = [run.gradients[fn.params.length + fn.state.length + 1] ?? null];
      }
      const scalars = optimizer.scalars(lr, step + 1).map(scalar);
      for (const [path, update] of updates) {
        const all = [params[path], gradients.get(path), ...update.slots, ...scalars] as HostTensor[];
        const results = await update.executable.run(all.map((t): DeviceTensor => engine.upload(t)));
        const [next, ...slots] = await Promise.all(results.map((t) => engine.download(t)));
        params[path] = next as HostTensor;
        update.slots.splice(0, slots.length, ...slots);
      }
    }
    losses.forEach((loss, step) => {
      expect(Math.abs(loss - (golden.losses[step] as number)), `loss of step ${step}: ${loss}`).toBeLessThan(1e-4);
    });
  } finally {
    await engine.dispose();
  }
});
