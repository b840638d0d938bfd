import { describe, expect, it } from 'vitest';
import { createEngine, EngineError, type Signature, tf, valueAndGradients } from '../../src/engine/index.ts';
import { float32, int32, sizeOf } from '../../src/tensor/index.ts';

type Tensor = tf.Tensor;

const [inputs, hidden, classes, batch, steps] = [12, 7, 4, 5, 3];
const shapes = [[inputs, hidden], [hidden], [hidden, classes], [classes]] as const;
const numbers = (count: number, seed: number) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(seed * 1000 + i * 12.9898) / 2);

function loss(params: readonly Tensor[], x: Tensor, labels: Tensor): Tensor {
  const [w1, b1, w2, b2] = params as [tf.Tensor2D, Tensor, tf.Tensor2D, Tensor];
  const logits = tf.add(tf.matMul(tf.relu(tf.add(tf.matMul(x as tf.Tensor2D, w1), b1)), w2), b2);
  const log = tf.logSoftmax(logits);
  return tf.neg(tf.mean(tf.sum(tf.mul(tf.oneHot(labels as tf.Tensor1D, classes), log), -1)));
}

/** `steps` steps of gradient descent in one function: parameters, then each step's batch. */
function descend(...given: Tensor[]): Tensor[] {
  let params: readonly Tensor[] = given.slice(0, 4);
  const losses: Tensor[] = [];
  for (let step = 0; step < steps; step++) {
    const [x, labels] = given.slice(4 + 2 * step, 6 + 2 * step) as [Tensor, Tensor];
    const now = params;
    const { value, gradients } = valueAndGradients(
      () => loss(now, x, labels),
      (scalar) => scalar,
      now,
    );
    params = now.map((param, i) => tf.sub(param, tf.mul(gradients[i] as Tensor, 0.1)));
    losses.push(value);
  }
  return [...params, tf.stack(losses)];
}

const batches = Array.from({ length: steps }, (_, step) => [
  float32(numbers(batch * inputs, 50 + step), [batch, inputs]),
  int32(
    Int32Array.from({ length: batch }, (_, i) => (i * 3 + step) % classes),
    [batch],
  ),
]).flat();
const params = shapes.map((shape, i) => float32(numbers(sizeOf(shape), i + 1), shape));
const signature: Signature[] = [...params, ...batches].map(({ dtype, shape }) => ({ dtype, shape }) as Signature);

describe('gradients inside of a traced function', () => {
  it('unrolls steps of gradient descent into one executable that agrees with steps of its own', async () => {
    const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
    try {
      const unrolled = await engine.compile(descend, signature);
      const outputs = await unrolled.run([...params, ...batches].map((tensor) => engine.upload(tensor)));
      const single = await engine.vjp(
        (...given) => loss(given.slice(0, 4), given[4] as Tensor, given[5] as Tensor),
        signature.slice(0, 6),
        {
          wrt: [true, true, true, true, false, false],
          differentiable: [true],
          fused: true,
        },
      );
      const [phase] = single.phases;
      let current = params.map(({ data }) => Float32Array.from(data as Float32Array));
      for (let step = 0; step < steps; step++) {
        const given = [
          ...current.map((data, i) => float32(data, shapes[i] as readonly number[])),
          ...batches.slice(2 * step, 2 * step + 2),
        ];
        const slots = new Map(
          single.inputs.map((slot, i) => [slot, engine.upload(given[i] as (typeof params)[number])]),
        );
        slots.set(single.cotangents[0] as number, engine.upload(float32([1], [])));
        const results = await phase?.executable.run(phase.reads.map((slot) => slots.get(slot) as never));
        for (const [i, slot] of (phase?.writes ?? []).entries()) slots.set(slot, results?.[i] as never);
        current = current.map((data, i) => {
          const gradient = engine.host(slots.get(single.gradients[i] as number) as never)?.data as Float32Array;
          return data.map((value, j) => value - Math.fround((gradient[j] as number) * Math.fround(0.1)));
        });
      }
      for (const [i, data] of current.entries()) {
        const found = engine.host(outputs[i] as never)?.data as Float32Array;
        for (const [j, value] of data.entries()) expect(found[j]).toBeCloseTo(value, 5);
      }
    } finally {
      await engine.dispose();
    }
  });

  it('gives zeros for what the objective does not depend on', async () => {
    const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
    const square = (x: Tensor, y: Tensor) =>
      valueAndGradients(
        () => tf.sum(tf.square(x)),
        (sum) => sum,
        [x, y],
      ).gradients;
    const of: Signature = { dtype: 'float32', shape: [2] };
    const executable = await engine.compile(square, [of, of]);
    const [dx, dy] = await executable.run([float32([1, -3], [2]), float32([5, 6], [2])].map((t) => engine.upload(t)));
    expect([...(engine.host(dx as never)?.data ?? [])]).toEqual([2, -6]);
    expect([...(engine.host(dy as never)?.data ?? [])]).toEqual([0, 0]);
    await engine.dispose();
  });

  it('refuses objectives that are no scalar, and calls outside of a trace', async () => {
    const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
    const wrong = (x: Tensor) =>
      valueAndGradients(
        () => tf.square(x),
        (y) => y,
        [x],
      ).gradients;
    await expect(engine.compile(wrong, [{ dtype: 'float32', shape: [2] }])).rejects.toThrow(/float32 scalar/);
    await engine.dispose();
    expect(() =>
      valueAndGradients(
        () => 0,
        () => undefined as never,
        [],
      ),
    ).toThrow(EngineError);
  });
});
