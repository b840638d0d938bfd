import { readFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { beforeAll, describe, expect, it } from 'vitest';
import { createEngine } from '../../src/engine/index.ts';
import { buildOptimizer, clipScale, optimSchema, type ParamInfo, updateFunction } from '../../src/optim/index.ts';
import { float32 } from '../../src/tensor/index.ts';

interface Golden {
  readonly steps: number;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly params: Readonly<Record<string, readonly number[]>>;
  readonly grads: readonly Readonly<Record<string, readonly number[]>>[];
  readonly cases: Readonly<
    Record<string, { readonly config: unknown; readonly params: Readonly<Record<string, readonly number[]>> }>
  >;
}

const golden = JSON.parse(readFileSync(new URL('../golden/optim.json', import.meta.url), 'utf8')) as Golden;

/** Norm of all gradients of a step. */
const gradientNorm = (step: number): number => Math.hypot(...Object.values(golden.grads[step] ?? {}).flat());

/** Runs one compiled update: values in, values out. */
type Update = (inputs: readonly Float32Array[]) => Promise<readonly Float32Array[]>;

/** Ten steps of an optimizer on the golden data; `compile` says what executes the updates. */
async function follow(
  config: unknown,
  compile: (fn: ReturnType<typeof updateFunction>) => Promise<Update>,
): Promise<Record<string, Float32Array>> {
  const { optimizer, lrAt, clipNorm } = buildOptimizer(optimSchema.parse(config), { totalSteps: golden.steps });
  const result: Record<string, Float32Array> = {};
  for (const [path, shape] of Object.entries(golden.shapes)) {
    const info: ParamInfo = { path, shape, decay: path.endsWith('weight') };
    const update = await compile(updateFunction(optimizer, info, { clipping: clipNorm !== null }));
    const param = Float32Array.from(golden.params[path] as readonly number[]);
    let values: readonly Float32Array[] = [param, ...optimizer.slots(info).map(() => new Float32Array(param.length))];
    for (let step = 0; step < golden.steps; step++) {
      const [current, ...slots] = values as [Float32Array, ...Float32Array[]];
      const grad = Float32Array.from(golden.grads[step]?.[path] as readonly number[]);
      const scale = clipNorm === null ? [] : [clipScale(gradientNorm(step), clipNorm)];
      const scalars = [...optimizer.scalars(lrAt(step), step + 1), ...scale].map((x) => Float32Array.of(x));
      values = await update([current, grad, ...slots, ...scalars]);
    }
    result[path] = values[0] as Float32Array;
  }
  return result;
}

const TOLERANCE = 1e-6;

/** Largest difference, relative to the largest magnitude of the tensor. */
function relativeError(actual: Float32Array, expected: readonly number[]): number {
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...expected.map((x, i) => Math.abs(x - (actual[i] as number)))) / scale;
}

const eager = async ({ fn, signature }: ReturnType<typeof updateFunction>): Promise<Update> => {
  return async (inputs) => {
    const outputs = tf.tidy(() => {
      const tensors = inputs.map((data, i) => tf.tensor(data, [...(signature[i]?.shape ?? [])], 'float32'));
      return [fn(...tensors)].flat() as tf.Tensor[];
    });
    const values = outputs.map((tensor) => Float32Array.from(tensor.dataSync()));
    tf.dispose(outputs);
    return values;
  };
};

describe('after ten steps weights agree with PyTorch', () => {
  beforeAll(async () => {
    await tf.setBackend('cpu');
  });

  it.each(Object.entries(golden.cases))('%s, in tfjs', async (_name, { config, params }) => {
    const result = await follow(config, eager);
    for (const [path, expected] of Object.entries(params))
      expect(relativeError(result[path] as Float32Array, expected), path).toBeLessThan(TOLERANCE);
  });

  it.each(Object.entries(golden.cases))('%s, in ONNX Runtime', async (_name, { config, params }) => {
    const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
    const result = await follow(config, async ({ fn, signature }) => {
      const executable = await engine.compile(fn, signature, { name: 'update' });
      return async (inputs) => {
        const values = inputs.map((data, i) => engine.upload(float32(data, signature[i]?.shape ?? [])));
        const outputs = await executable.run(values);
        return Promise.all(
          outputs.map(async (value) => Float32Array.from((await engine.download(value)).data as Float32Array)),
        );
      };
    });
    await engine.dispose();
    for (const [path, expected] of Object.entries(params))
      expect(relativeError(result[path] as Float32Array, expected), path).toBeLessThan(TOLERANCE);
  });
});
