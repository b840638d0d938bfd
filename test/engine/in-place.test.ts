import ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createOnnxEngine, type DeviceTensor, type OnnxEngine, type Signature, tf } from '../../src/engine/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';

let engine: OnnxEngine;
beforeAll(async () => {
  engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

const size = 1 << 18;
const float = (value: DeviceTensor) => (engine.host(value) as HostTensor).data as Float32Array;
const vector: Signature = { dtype: 'float32', shape: [size] };

describe('outputs', () => {
  it('are written where they are wanted, and no memory is taken besides', async () => {
    const run = await engine.compile((a, b) => [tf.add(a, b), tf.sub(a, b)], [vector, vector]);
    const upload = (value: number) => engine.upload({ ...vector, data: new Float32Array(size).fill(value) });
    const [a, b, sum, difference] = [upload(3), upload(2), upload(0), upload(0)];
    await run.run([a, b], [sum, difference]);
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 20; i++) {
      const results = await run.run([a, b], [sum, difference]);
      expect(results[0]).toBe(sum);
      expect(results[1]).toBe(difference);
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(size);
    expect(float(sum).every((value) => value === 5)).toBe(true);
    expect(float(difference).every((value) => value === 1)).toBe(true);
  });

  it('of public sessions in the same thread are made as ever', async () => {
    const run = await engine.compile((a) => tf.neg(a), [{ dtype: 'float32', shape: [2] }]);
    const session = await ort.InferenceSession.create(run.onnx());
    const name = session.inputNames[0] as string;
    const results = await session.run({ [name]: new ort.Tensor('float32', Float32Array.of(1, 2), [2]) });
    const output = results[session.outputNames[0] as string];
    expect(output).toBeInstanceOf(ort.Tensor);
    expect([...((output as ort.Tensor).data as Float32Array)]).toEqual([-1, -2]);
    await session.release();
  });

  it('are not written by a run that fails, and the failure is told', async () => {
    const run = await engine.compile((a, i) => tf.gather(a, i as never), [vector, { dtype: 'int32', shape: [1] }]);
    const a = engine.upload({ ...vector, data: new Float32Array(size) });
    const index = engine.upload({ dtype: 'int32', shape: [1], data: Int32Array.of(size + 5) });
    await expect(run.run([a, index])).rejects.toThrow(/failed in ONNX Runtime/);
  });
});
