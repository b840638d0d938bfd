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
