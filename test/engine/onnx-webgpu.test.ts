import type { Tensor } from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import {
  type DeviceTensor,
  type Engine,
  gelu,
  layerNorm,
  type PhasedFunction,
  type Signature,
  softmaxCrossEntropy,
  tf,
} from '../../src/engine/index.ts';
import { createOnnxEngine } from '../../src/engine/onnx/index.ts';
import { float32, int32, zeros } from '../../src/tensor/index.ts';
import { findWebGpu } from './webgpu-driver.ts';

const webgpu = findWebGpu();

const S = { vocabulary: 12, width: 16, heads: 2, batch: 2, time: 6, layers: 2, steps: 8 };
const rows = S.batch * S.time;
const f32 = (...shape: number[]): Signature => ({ dtype: 'float32', shape });
const ids: Signature = { dtype: 'int32', shape: [rows] };

type Params = readonly Tensor[];
const at = (params: Params, i: number): Tensor => params[i] as Tensor;
const blockParams = [f32(16), f32(16), f32(16, 48), f32(16, 16), f32(16), f32(16), f32(16, 32), f32(32), f32(32, 16)];

function block(params: Params, x: Tensor): Tensor {
  const split = tf.reshape(tf.matMul(layerNorm(x, at(params, 0), at(params, 1)), at(params, 2)), [
    S.batch,
    S.time,
    3,
    S.heads,
    8,
  ]);
  const [q, k, v] = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor];
  const mixed = tf.matMul(tf.softmax(tf.mul(tf.matMul(q, k, false, true), 8 ** -0.5)), v);
  const attended = tf.add(x, tf.matMul(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [rows, S.width]), at(params, 3)));
  const hidden = gelu(
    tf.add(tf.matMul(layerNorm(attended, at(params, 4), at(params, 5)), at(params, 6)), at(params, 7)),
  );
  return tf.add(attended, tf.matMul(hidden, at(params, 8)));
}

/** A layer: its parameters' signatures and its phased function. */
interface Layer {
  readonly params: readonly Signature[];
  readonly phased: PhasedFunction;
}

async function layers(engine: Engine): Promise<Layer[]> {
  const make = async (
    params: Signature[],
    inputs: Signature[],
    fn: (...all: Tensor[]) => Tensor,
    name: string,
  ): Promise<Layer> => {
    const signature = [...params, ...inputs];
    const wrt = signature.map(({ dtype }) => dtype === 'float32');
    return { params, phased: await engine.vjp(fn, signature, { wrt, differentiable: [true], name }) };
  };
  const activation = f32(rows, S.width);
  const result = [
    await make(
      [f32(S.vocabulary, S.width)],
      [ids],
      (table, tokens) => tf.gather(table as Tensor, tokens as Tensor),
      'embed',
    ),
  ];
  for (let i = 0; i < S.layers; i++)
    result.push(
      await make(blockParams, [activation], (...all) => block(all.slice(0, -1), all.at(-1) as Tensor), `block ${i}`),
    );
  const head = (w: Tensor, x: Tensor, targets: Tensor) => tf.mean(softmaxCrossEntropy(tf.matMul(x, w), targets));
  result.push(await make([f32(S.width, S.vocabulary)], [activation, ids], head as never, 'head'));
  return result;
}

/** Runs the phases of one kind over a microbatch's slots. */
async function runPhases(
  engine: Engine,
  phased: PhasedFunction,
  slots: Map<number, DeviceTensor>,
  kinds: readonly string[],
): Promise<void> {
  const keep = new Set([...phased.inputs, ...phased.outputs, ...phased.gradients, ...phased.cotangents]);
  for (const { kind, executable, reads, writes, frees } of phased.phases) {
    if (!kinds.includes(kind)) continue;
    const outputs = await executable.run(reads.map((id) => slots.get(id) as DeviceTensor));
    writes.forEach((id, i) => {
      slots.set(id, outputs[i] as DeviceTensor);
    });
    for (const id of frees)
      if (!keep.has(id) && slots.has(id)) {
        engine.release(slots.get(id) as DeviceTensor);
        slots.delete(id);
      }
  }
}

interface Result {
  readonly losses: number[];
  /** Bytes to and from the device in the steps after the first. */
  readonly perStep: { toDevice: number; toHost: number };
}

/** Trains with momentum: parameters, momenta and residuals stay with the engine. */
async function train(engine: Engine): Promise<Result> {
  const model = await layers(engine);
  let state = 7;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
  const gains = (spec: Signature, i: number): boolean => spec.shape.length === 1 && (i === 0 || i === 4);
  const params = model.map((layer) =>
    layer.params.map((spec, i) => {
      const size = spec.shape.reduce((a, b) => a * b, 1);
      const values = Float32Array.from({ length: size }, () =>
        gains(spec, i) ? 1 : spec.shape.length === 1 ? 0 : (next() - 0.5) * 0.6,
      );
      return engine.upload(float32(values, spec.shape));
    }),
  );
  const momenta = model.map((layer) => layer.params.map((spec) => engine.upload(zeros('float32', spec.shape))));
  const seed = engine.upload(float32([1], []));
  const updates = await Promise.all(
    model.map((layer) =>
      engine.compile(
        (...all) => {
          const n = layer.params.length;
          const moved = layer.params.map((_, i) => tf.add(tf.mul(at(all, n + i), 0.9), at(all, 2 * n + i)));
          return [...layer.params.map((_, i) => tf.sub(at(all, i), tf.mul(at(moved, i), 0.05))), ...moved];
        },
        [...layer.params, ...layer.params, ...layer.params],
        { name: 'momentum' },
      ),
    ),
  );
  const tokens = Int32Array.from({ length: rows }, () => Math.floor(next() * S.vocabulary));
  const targets = tokens.map((token) => (token * 5 + 3) % S.vocabulary);
  const losses: number[] = [];
  let before = engine.transferStatistics();
  for (let step = 0; step < S.steps; step++) {
    if (step === 1) before = engine.transferStatistics();
    const batch = {
      tokens: engine.upload(int32(tokens.slice(), [rows])),
      targets: engine.upload(int32(targets.slice(), [rows])),
    };
    const environments = model.map(() => new Map<number, DeviceTensor>());
    let activation: DeviceTensor | null = null;
    for (const [l, layer] of model.entries()) {
      const { phased } = layer;
      const slots = environments[l] as Map<number, DeviceTensor>;
      const inputs = [
        ...(params[l] as DeviceTensor[]),
        ...(activation ? [activation] : [batch.tokens]),
        ...(l === model.length - 1 ? [batch.targets] : []),
      ];
      phased.inputs.forEach((id, i) => {
        slots.set(id, inputs[i] as DeviceTensor);
      });
      await runPhases(engine, phased, slots, ['forward']);
      activation = slots.get(phased.outputs[0] as number) as DeviceTensor;
    }
    losses.push(((await engine.download(activation as DeviceTensor)).data as Float32Array)[0] as number);
    let cotangent = seed;
    for (const [l, layer] of [...model.entries()].reverse()) {
      const { phased } = layer;
      const slots = environments[l] as Map<number, DeviceTensor>;
      slots.set(phased.cotangents[0] as number, cotangent);
      await runPhases(engine, phased, slots, ['backward']);
      const n = layer.params.length;
      const gradient = (i: number): DeviceTensor => slots.get(phased.gradients[i] as number) as DeviceTensor;
      if (l > 0) cotangent = gradient(n);
      const old = [...(params[l] as DeviceTensor[]), ...(momenta[l] as DeviceTensor[])];
      const updated = await (updates[l] as (typeof updates)[0]).run([
        ...old,
        ...layer.params.map((_, i) => gradient(i)),
      ]);
      params[l] = updated.slice(0, n);
      momenta[l] = updated.slice(n);
      for (const tensor of old) engine.release(tensor);
    }
  }
  const after = engine.transferStatistics();
  const steps = S.steps - 1;
  return {
    losses,
    perStep: { toDevice: (after.toDevice - before.toDevice) / steps, toHost: (after.toHost - before.toHost) / steps },
  };
}

describe('training on WebGPU', () => {
  it.skipIf(webgpu.skip)(
    'keeps parameters, optimizer state and residuals on the device, and follows the CPU',
    async () => {
      expect(webgpu.missing, webgpu.toInstall).toEqual([]);
      const cpu = await createOnnxEngine({ device: 'cpu', threads: 1 });
      const expected = await train(cpu);
      await cpu.dispose();
      expect(expected.losses.at(-1)).toBeLessThan((expected.losses[0] as number) * 0.8);
      expect(expected.perStep).toEqual({ toDevice: 0, toHost: 0 });

      const gpu = await createOnnxEngine({ device: 'webgpu', threads: 1 });
      const found = await train(gpu);
      expect(gpu.host(gpu.upload(float32([1], [1])))).toBeNull();
      await gpu.dispose();
      found.losses.forEach((loss, i) => {
        expect(loss).toBeCloseTo(expected.losses[i] as number, 4);
      });
      // A step moves its batch (tokens and targets, int32) one way and its loss the other.
      expect(found.perStep).toEqual({ toDevice: 2 * rows * 4, toHost: 4 });
    },
    120_000,
  );
});
