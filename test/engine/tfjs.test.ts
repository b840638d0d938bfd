import type { Tensor, Tensor1D, Tensor4D } from '@tensorflow/tfjs-core';
import { afterAll, describe, expect, test } from 'vitest';
import {
  createEngine,
  type DeviceTensor,
  type Engine,
  EngineError,
  gelu,
  layerNorm,
  rmsNorm,
  type Signature,
  silu,
  softmaxCrossEntropy,
  type TensorFunction,
  tf,
} from '../../src/engine/index.ts';
import { createTfjsEngine, isInstalled, tfjsBackends } from '../../src/engine/tfjs/index.ts';
import { float32, type HostTensor, int32, scalar } from '../../src/tensor/index.ts';
import { checkGradient, expectClose, integers, random } from './reference.ts';

const devices = await Promise.all(['cpu', 'wasm'].map((device) => createTfjsEngine({ device, threads: 1 })));

const onnx = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });

afterAll(async () => {
  await onnx.dispose();
  for (const engine of devices) await engine.dispose();
});

const signature = (...shape: number[]) => ({ dtype: 'float32' as const, shape });

const step: TensorFunction = (...inputs) => {
  const [w, g, b, v, x, labels] = inputs as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
  const h = gelu(layerNorm(tf.matMul(x, w), g, b));
  return tf.mean(softmaxCrossEntropy(tf.matMul(tf.add(h, silu(h)), v), labels));
};
const shapes = [[3, 5], [5], [5], [5, 4], [6, 3]];

describe.each(devices.map((engine) => [engine.device, engine] as const))('on %s', (_device, engine) => {
  test('a training step gives what tfjs gives eagerly on the CPU', async () => {
    const tensors = [...shapes.map((shape, i) => random(shape, i + 1)), integers([6], 4, 9)];
    const phased = await engine.vjp(
      step,
      [...shapes.map((shape) => signature(...shape)), { dtype: 'int32', shape: [6] }],
      {
        name: 'step',
        wrt: [true, true, true, true, true, false],
        differentiable: [true],
      },
    );
    const slots = new Map(
      phased.inputs.map((slot, i) => {
        const { dtype, shape } = tensors[i] as Tensor;
        const data = (tensors[i] as Tensor).dataSync();
        return [
          slot,
          engine.upload(dtype === 'int32' ? int32(data as Int32Array, shape) : float32(data as Float32Array, shape)),
        ];
      }),
    );
    slots.set(phased.cotangents[0] as number, engine.upload(scalar(1)));
    for (const phase of phased.phases) {
      const results = await phase.executable.run(phase.reads.map((slot) => slots.get(slot) as never));
      for (const [i, slot] of phase.writes.entries()) slots.set(slot, results[i] as never);
    }
    const loss = await engine.download(slots.get(phased.outputs[0] as number) as never);
    const floats = tensors.slice(0, 5);
    const { value, grads } = tf.valueAndGrads(
      (...each) => tf.mean(step(...each, tensors[5] as Tensor) as Tensor) as never,
    )(floats);
    expectClose(tf.tensor(loss.data as Float32Array, []), value, 1e-5, 'loss');
    for (const [i, expected] of grads.entries()) {
      const { data, shape } = await engine.download(slots.get(phased.gradients[i] as number) as never);
      expectClose(tf.tensor(data as Float32Array, [...shape]), expected, 1e-5, `gradient ${i}`);
    }
  });

  test('inputs survive a run, outputs can go into given tensors', async () => {
    const double = await engine.compile((x) => tf.mul(x as Tensor, 2), [signature(3)]);
    const x = engine.upload(float32([1, 2, 3], [3]));
    const [first] = await double.run([x]);
    const [second] = await double.run([first as never], [engine.upload(float32([0, 0, 0], [3]))]);
    expect([...(await engine.download(x)).data]).toEqual([1, 2, 3]);
    expect([...(await engine.download(second as never)).data]).toEqual([4, 8, 12]);
    engine.release(second as never);
    expect(() => engine.release(second as never)).toThrow('was released');
  });

  test('identity, constants and repeated outputs', async () => {
    const fn: TensorFunction = (x) => [x as Tensor, x as Tensor, tf.scalar(5)];
    const executable = await engine.compile(fn, [signature(2)]);
    const x = engine.upload(float32([1, 2], [2]));
    const outputs = await executable.run([x]);
    for (const output of outputs) engine.release(output);
    expect([...(await engine.download(x)).data]).toEqual([1, 2]);
    const again = await executable.run([x]);
    expect([...(await engine.download(again[2] as never)).data]).toEqual([5]);
  });

  test('wrong inputs are refused by name', async () => {
    const executable = await engine.compile((x) => tf.exp(x as Tensor), [signature(3)], { name: 'exp' });
    const x = engine.upload(float32([1, 2], [2]));
    await expect(executable.run([x])).rejects.toThrow('"exp": input 0 is float32 [2], expected float32 [3]');
    await expect(executable.run([])).rejects.toThrow('takes 1 inputs, got 0');
    expect(() => executable.onnx()).toThrow('no ONNX models');
  });

  test.each<[string, number[][], TensorFunction]>([
    [
      'one-hot in float32',
      [[4, 3]],
      (x) => tf.mul(x as Tensor, tf.oneHot(tf.argMax(x as Tensor, 1), 3, 0.9, 0.1, 'float32')),
    ],
    [
      'matmul with batches broadcast on both sides',
      [
        [2, 1, 4, 3],
        [3, 3, 5],
      ],
      (a, b) => tf.matMul(a as Tensor, b as Tensor),
    ],
    [
      'convolution',
      [
        [2, 6, 5, 3],
        [3, 3, 3, 4],
      ],
      (x, w) => tf.conv2d(x as Tensor4D, w as Tensor4D, 2, 'same'),
    ],
    [
      'depthwise convolution',
      [
        [2, 6, 5, 3],
        [3, 3, 3, 2],
      ],
      (x, w) => tf.depthwiseConv2d(x as Tensor4D, w as Tensor4D, 1, 'same'),
    ],
    ['max pooling with padding', [[2, 7, 6, 3]], (x) => tf.maxPool(x as Tensor4D, [3, 2], 2, 'same')],
    [
      'an update of rows',
      [
        [5, 3],
        [2, 3],
      ],
      (x, rows) => tf.tensorScatterUpdate(x as Tensor, tf.tensor2d([[1], [3]], [2, 1], 'int32'), rows as Tensor),
    ],
  ])('%s: values and gradients are those of the onnx engine', async (_name, inputs, fn) => {
    const values = async (engine: Engine) => {
      const given = inputs.map((shape, i) =>
        engine.upload(
          float32(
            random(shape, i + 1)
              .dataSync()
              .slice() as Float32Array,
            shape,
          ),
        ),
      );
      const phased = await engine.vjp(
        fn,
        inputs.map((shape) => signature(...shape)),
        {
          wrt: inputs.map(() => true),
          differentiable: [true],
        },
      );
      const slots = new Map(phased.inputs.map((slot, i) => [slot, given[i] as DeviceTensor]));
      const { shape } = phased.slots.get(phased.outputs[0] as number) as Signature;
      slots.set(
        phased.cotangents[0] as number,
        engine.upload(
          float32(
            random([...shape], 9)
              .dataSync()
              .slice() as Float32Array,
            shape,
          ),
        ),
      );
      for (const { executable, reads, writes } of phased.phases) {
        const results = await executable.run(reads.map((slot) => slots.get(slot) as DeviceTensor));
        for (const [i, slot] of writes.entries()) slots.set(slot, results[i] as DeviceTensor);
      }
      const wanted = [...phased.outputs, ...phased.gradients].map((slot) => slots.get(slot as number) as DeviceTensor);
      return Promise.all(wanted.map(async (tensor) => (await engine.download(tensor)).data.slice()));
    };
    const expected = await values(onnx);
    for (const [i, value] of (await values(engine)).entries())
      expectClose(tf.tensor(value as Float32Array), tf.tensor(expected[i] as Float32Array), 1e-5, `value ${i}`);
  });

  test.each(['float32', 'int32', 'bool'] as const)('an output of %s goes into a given tensor', async (dtype) => {
    const executable = await engine.compile((x) => tf.cast(tf.greater(x as Tensor, 0), dtype), [signature(2)]);
    const [into] = await executable.run([engine.upload(float32([1, -1], [2]))]);
    const [written] = await executable.run([engine.upload(float32([-1, 1], [2]))], [into as DeviceTensor]);
    expect(written).toBe(into);
    expect([...(await engine.download(written as DeviceTensor)).data]).toEqual([0, 1]);
  });

  test('what fails names its own module, though equal layers share their graph', async () => {
    const fn: TensorFunction = (x, i) => tf.gather(x as Tensor, i as Tensor1D);
    const types: Signature[] = [signature(3), { dtype: 'int32', shape: [1] }];
    const options = { wrt: [true, false], differentiable: [true] };
    await engine.vjp(fn, types, { ...options, name: 'blocks.0' });
    const { phases, inputs } = await engine.vjp(fn, types, { ...options, name: 'blocks.1' });
    const given = [engine.upload(float32([1, 2, 3], [3])), engine.upload(int32([7], [1]))];
    const [phase] = phases;
    const failed = phase?.executable.run(phase.reads.map((slot) => given[inputs.indexOf(slot)] as DeviceTensor));
    await expect(failed).rejects.toThrow('module "blocks.1": GatherV2(float32 [3], int32 [1]) failed');
    await expect(failed).rejects.toMatchObject({ path: 'blocks.1' });
  });

  test('a run leaks no tensors', async () => {
    const executable = await engine.compile((x) => tf.softmax(tf.tanh(x as Tensor)), [signature(2, 3)]);
    const x = engine.upload(float32(new Float32Array(6), [2, 3]));
    engine.release((await executable.run([x]))[0] as never);
    const before = tf.engine().state.numTensors;
    for (let i = 0; i < 3; i++) engine.release((await executable.run([x]))[0] as never);
    expect(tf.engine().state.numTensors).toBe(before);
  });
});

test('on the CPU device an output has memory of its own dtype, shared with no input or other output', async () => {
  const engine = devices[0] as (typeof devices)[number];
  const views: TensorFunction = (x) => [
    x as Tensor,
    tf.reshape(x as Tensor, [4]),
    ...tf.unstack(x as Tensor),
    ...tf.split(tf.neg(x as Tensor), 2),
    tf.cast(tf.greater(x as Tensor, 2), 'float32'),
    tf.scalar(1),
  ];
  const executable = await engine.compile(views, [signature(2, 2)]);
  const x = engine.upload(float32([1, 2, 3, 4], [2, 2]));
  const outputs = [...(await executable.run([x])), ...(await executable.run([x]))];
  for (const output of outputs) ((engine.host(output) as HostTensor).data as Float32Array).fill(9.5);
  expect([...(await engine.download(x)).data]).toEqual([1, 2, 3, 4]);
  const again = await Promise.all((await executable.run([x])).map((output) => engine.download(output)));
  expect(again.map(({ data }) => [...data])).toEqual([
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    [1, 2],
    [3, 4],
    [-1, -2],
    [-3, -4],
    [0, 0, 1, 1],
    [1],
  ]);
  expect(again.every(({ data }) => data instanceof Float32Array)).toBe(true);
  for (const output of outputs) engine.release(output);
});

test("on the CPU device a value's memory can be seen without a copy, and into writes to it", async () => {
  const engine = devices[0] as (typeof devices)[number];
  const memory = new Float32Array([1, 2]);
  const x = engine.upload(float32(memory, [2]));
  expect(engine.host(x)?.data).toBe(memory);
  const target = engine.upload(float32([0, 0], [2]));
  const seen = engine.host(target)?.data;
  await (await engine.compile((a) => tf.neg(a as Tensor), [signature(2)])).run([x], [target]);
  expect([...(seen as Float32Array)]).toEqual([-1, -2]);
  expect(engine.transferStatistics()).toEqual({ toDevice: 0, toHost: 0 });
});

describe('backends that are not there', () => {
  test('unknown', async () => {
    await expect(createTfjsEngine({ device: 'gpu', threads: 1 })).rejects.toThrow('cpu, wasm, webgpu, node, node-gpu');
  });

  test.each(tfjsBackends.filter((backend) => !isInstalled(backend)))(
    '$device names the package to install',
    async ({ device, npm }) => {
      const made = createTfjsEngine({ device, threads: 1 });
      await expect(made).rejects.toThrow(EngineError);
      await expect(made).rejects.toThrow(`npm install ${npm}`);
    },
  );
});

test('our ops work eagerly on a tfjs backend, with gradients', () => {
  const x = random([4, 6], 1);
  for (const fn of [(a: Tensor) => gelu(a), (a: Tensor) => gelu(a, 'tanh'), silu] as ((a: Tensor) => Tensor)[])
    checkGradientEagerly((a) => fn(a as Tensor), [x]);
  checkGradientEagerly(
    (a, g, b) => layerNorm(a as Tensor, g as Tensor, b as Tensor),
    [x, random([6], 2), random([6], 3)],
  );
  checkGradientEagerly((a, g) => rmsNorm(a as Tensor, g as Tensor), [x, random([6], 2)]);
  const labels = integers([4], 6);
  checkGradientEagerly((a) => softmaxCrossEntropy(a as Tensor, labels), [x]);
});

/** tf.grads of an op against its traced gradient, which is checked against differences. */
function checkGradientEagerly(fn: TensorFunction, inputs: Tensor[]): void {
  checkGradient(fn, inputs, { tolerance: 2e-2 });
  const before = tf.memory().numTensors;
  const grads = tf.grads(fn as never)(inputs);
  expect(grads).toHaveLength(inputs.length);
  expect(tf.memory().numTensors - before).toBe(inputs.length);
}
