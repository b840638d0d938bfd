import { afterAll, expect, it } from 'vitest';
import { createEngine, tf } from '../../src/engine/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { TensorSpace } from '../../src/worker/tensor-space.ts';

const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
afterAll(() => engine.dispose());

it('keeps as many buffers as runs need at once, and nothing that only comes in', async () => {
  const space = new TensorSpace(engine, false);
  const halve = await engine.compile((x) => tf.mul(x as tf.Tensor, 0.5), [{ dtype: 'float32', shape: [4] }]);
  const step = async () => {
    const batch = space.upload(float32(new Float32Array(4), [4]));
    const outside = space.upload(float32(new Float32Array(3), [3]));
    const outputs = [...(await space.run(halve, [batch.tensor])), ...(await space.run(halve, [batch.tensor]))];
    space.release(batch);
    space.release(outside);
    for (const output of outputs) space.give(output);
  };
  for (let i = 0; i < 5; i++) await step();
  expect(space.take({ dtype: 'float32', shape: [3] })).toBeNull();
  const kept = [1, 2, 3].map(() => space.take({ dtype: 'float32', shape: [4] }));
  expect(kept.filter((tensor) => tensor !== null)).toHaveLength(2);
});

it('uses the memory of results of runs that were put off again, though they were looked at', async () => {
  const space = new TensorSpace(engine);
  const halve = await engine.compile((x) => tf.mul(x as tf.Tensor, 0.5), [{ dtype: 'float32', shape: [5] }]);
  const memory = new Set<ArrayBufferLike>();
  const step = async (value: number): Promise<number[]> => {
    const given = Float32Array.of(value, 0, 0, 0, 0);
    const input = space.upload(float32(given, [5]));
    const [output] = await space.run(halve, [input.tensor]);
    if (!output) throw new Error('a run has outputs');
    const { data } = await space.read(output);
    memory.add(data.buffer);
    const result = Array.from(data as Float32Array);
    space.give(output);
    space.release(input);
    // What came from outside is nobody's to write to.
    expect(given[0]).toBe(value);
    return result;
  };
  for (let i = 0; i < 8; i++) expect((await step(i))[0]).toBe(i / 2);
  expect(memory.size).toBe(1);
});
