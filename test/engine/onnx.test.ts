import { afterAll, describe, expect, it } from 'vitest';
import {
  type DeviceTensor,
  EngineError,
  type Graph,
  type GraphNode,
  type Signature,
  tf,
  trace,
} from '../../src/engine/index.ts';
import { createOnnxEngine, graphKey } from '../../src/engine/onnx/index.ts';
import { float32, type HostTensor, int32, zeros } from '../../src/tensor/index.ts';

const engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
afterAll(() => engine.dispose());

const f32 = (...shape: number[]): Signature => ({ dtype: 'float32', shape });
const read = (x: DeviceTensor): number[] => Array.from((engine.host(x) as HostTensor).data as Float32Array);
const up = (values: number[], ...shape: number[]): DeviceTensor => engine.upload(float32(values, shape));

/** A graph of hand-made nodes over values of one shape. */
function graphOf(
  inputs: number,
  nodes: Pick<GraphNode, 'kernel' | 'inputs' | 'outputs'>[],
  outputs: number[],
  path = '',
): Graph {
  const ids = new Set([...Array(inputs).keys(), ...nodes.flatMap((node) => [...node.inputs, ...node.outputs])]);
  return {
    values: new Map([...ids].map((id) => [id, { id, ...f32(2) }])),
    inputs: [...Array(inputs).keys()],
    constants: [],
    nodes: nodes.map((node) => ({ ...node, attrs: {}, path, backward: false })),
    outputs,
  };
}

describe('an executable', () => {
  it('takes inputs and gives outputs by position', async () => {
    const run = await engine.compileGraph(
      trace((a, b) => [tf.sub(a as never, b as never), tf.mul(a as never, b as never)], [f32(2), f32(2)]),
      'two',
    );
    expect(run.inputs).toEqual([f32(2), f32(2)]);
    expect(run.outputs).toEqual([f32(2), f32(2)]);
    const [difference, product] = (await run.run([up([5, 7], 2), up([2, 3], 2)])) as [DeviceTensor, DeviceTensor];
    expect(read(difference)).toEqual([3, 4]);
    expect(read(product)).toEqual([10, 21]);
  });

  it('returns inputs, constants and duplicates as values of their own', async () => {
    const run = await engine.compileGraph(
      trace((a) => [a as never, tf.neg(a as never), tf.ones([2]), a as never], [f32(2)]),
      'pass',
    );
    const input = up([1, 2], 2);
    const outputs = await run.run([input]);
    expect(outputs.map(read)).toEqual([
      [1, 2],
      [-1, -2],
      [1, 1],
      [1, 2],
    ]);
    (engine.host(outputs[0] as DeviceTensor) as HostTensor).data[0] = 9;
    expect(read(input)).toEqual([1, 2]);
    expect(read(outputs[3] as DeviceTensor)).toEqual([1, 2]);
  });

  it('writes to preallocated outputs', async () => {
    const run = await engine.compileGraph(
      trace((a) => [tf.neg(a as never), tf.square(a as never)], [f32(2)]),
      'into',
    );
    const target = engine.upload(zeros('float32', [2]));
    const memory = (engine.host(target) as HostTensor).data;
    const [first, second] = await run.run([up([1, 2], 2)], [target, null]);
    expect(first).toBe(target);
    expect(Array.from(memory as Float32Array)).toEqual([-1, -2]);
    expect(read(second as DeviceTensor)).toEqual([1, 4]);
  });

  it('can run several times at once', async () => {
    const run = await engine.compileGraph(
      trace((a) => tf.neg(a as never), [f32(1)]),
      'concurrent',
    );
    const results = await Promise.all([...Array(5).keys()].map((i) => run.run([up([i], 1)])));
    expect(results.map(([y]) => -(read(y as DeviceTensor)[0] as number))).toEqual([0, 1, 2, 3, 4]);
  });

  it('handles scalars, empty tensors, int32 and bool', async () => {
    const signature: Signature[] = [f32(), f32(0, 3), { dtype: 'int32', shape: [3] }];
    const run = await engine.compileGraph(
      trace((a, b, c) => [tf.neg(a as never), tf.neg(b as never), tf.greater(c as never, 1)], signature),
      'edges',
    );
    const [a, b, c] = (await run.run([up([3]), up([], 0, 3), engine.upload(int32([1, 2, 3], [3]))])) as DeviceTensor[];
    expect(read(a as DeviceTensor)).toEqual([-3]);
    expect(b).toMatchObject({ shape: [0, 3], byteLength: 0 });
    expect(c).toMatchObject({ dtype: 'bool', shape: [3], byteLength: 3 });
    expect(read(c as DeviceTensor)).toEqual([0, 1, 1]);
  });

  it('takes tensors over shared memory', async () => {
    const run = await engine.compileGraph(
      trace((a) => tf.neg(a as never), [f32(2)]),
      'shared',
    );
    const data = new Float32Array(new SharedArrayBuffer(8));
    data.set([1, 2]);
    const [y] = await run.run([engine.upload({ dtype: 'float32', shape: [2], data })]);
    expect(read(y as DeviceTensor)).toEqual([-1, -2]);
  });

  it('gives reshaped values their shape without a copy of the numbers', async () => {
    const graph = trace((a) => [tf.reshape(tf.neg(a as never), [2, 3]), tf.reshape(a as never, [3, 2])], [f32(6)]);
    const run = await engine.compileGraph(graph, 'reshaped');
    const input = up([1, 2, 3, 4, 5, 6], 6);
    const outputs = await run.run([input]);
    expect(outputs.map(({ shape }) => shape)).toEqual([
      [2, 3],
      [3, 2],
    ]);
    expect(outputs.map(read)).toEqual([
      [-1, -2, -3, -4, -5, -6],
      [1, 2, 3, 4, 5, 6],
    ]);
    const again = await run.run([input], outputs);
    expect(again[0]).toBe(outputs[0]);
    expect((engine.host(again[0] as DeviceTensor) as HostTensor).shape).toEqual([2, 3]);
  });

  it('counts floating-point operations', async () => {
    const run = await engine.compileGraph(
      trace((a, b) => tf.matMul(a as never, b as never), [f32(3, 4), f32(4, 5)]),
      'flops',
    );
    expect(run.flops).toBe(2 * 3 * 4 * 5);
  });

  it('hands out the model', async () => {
    const run = await engine.compileGraph(
      trace((a) => tf.exp(a as never), [f32(2)]),
      'export',
    );
    const { default: onnxProto } = await import('onnx-proto');
    const model = onnxProto.onnx.ModelProto.decode(run.onnx());
    expect(model.graph?.node?.map((node) => node.opType)).toEqual(['Exp']);
    expect(model.graph?.input?.length).toBe(1);
  });
});

describe('memory', () => {
  it('of a released value that nobody sees is used again, of one that was shown is not', async () => {
    const own = await createOnnxEngine({ device: 'cpu', threads: 1 });
    const run = await own.compileGraph(
      trace((a) => tf.neg(a as never), [f32(1000)]),
      'pool',
    );
    const input = own.upload(zeros('float32', [1000]));
    const [first] = (await run.run([input])) as [DeviceTensor];
    const shown = own.host(first) as HostTensor;
    own.release(first);
    const [second] = (await run.run([input])) as [DeviceTensor];
    own.release(second);
    const [third] = (await run.run([input])) as [DeviceTensor];
    const again = own.host(third) as HostTensor;
    expect(again.data.buffer).not.toBe(shown.data.buffer);
    own.release(third, true);
    const [fourth] = (await run.run([input])) as [DeviceTensor];
    expect((own.host(fourth) as HostTensor).data.buffer).toBe(again.data.buffer);
    // What was uploaded is its owner's.
    const given = zeros('float32', [1000]);
    own.release(own.upload(given), true);
    const [fifth] = (await run.run([input])) as [DeviceTensor];
    expect((own.host(fifth) as HostTensor).data.buffer).not.toBe(given.data.buffer);
    await own.dispose();
  });

  it('is never read after a release', async () => {
    const run = await engine.compileGraph(
      trace((a) => tf.neg(a as never), [f32(2)]),
      'after release',
    );
    const input = up([1, 2], 2);
    engine.release(input);
    await expect(run.run([input])).rejects.toThrow(/"after release" input 0 was released/);
    expect(() => engine.host(input)).toThrow(/was released/);
    expect(() => engine.release(input)).toThrow(/was released/);
  });

  it('that went to another thread is named', async () => {
    const run = await engine.compileGraph(
      trace((a) => tf.neg(a as never), [f32(2)]),
      'moved',
    );
    const data = Float32Array.of(1, 2);
    const input = engine.upload({ dtype: 'float32', shape: [2], data });
    structuredClone(data.buffer, { transfer: [data.buffer] });
    await expect(run.run([input])).rejects.toThrow(/the memory of input 0 was transferred to another thread/);
  });
});

describe('the cache', () => {
  it('shares sessions of equal graphs, whatever their paths and value numbers', async () => {
    const own = await createOnnxEngine({ device: 'cpu', threads: 1 });
    const a = graphOf(2, [{ kernel: 'Add', inputs: [0, 1], outputs: [2] }], [2], 'blocks.0');
    const b = graphOf(2, [{ kernel: 'Add', inputs: [0, 1], outputs: [7] }], [7], 'blocks.1');
    const c = graphOf(2, [{ kernel: 'Sub', inputs: [0, 1], outputs: [2] }], [2], 'blocks.0');
    const d = graphOf(2, [{ kernel: 'Add', inputs: [1, 0], outputs: [2] }], [2], 'blocks.0');
    expect(graphKey(a)).toBe(graphKey(b));
    expect(new Set([a, c, d].map(graphKey)).size).toBe(3);
    const [first, second] = [await own.compileGraph(a, 'a'), await own.compileGraph(b, 'b')];
    expect(second.onnx()).toEqual(first.onnx());
    expect(own.compileStatistics()).toMatchObject({ executables: 1, cacheHits: 1 });
    await own.dispose();
    await expect(async () => own.compileGraph(a, 'late')).rejects.toThrow(/disposed/);
  });

  it('tells constants apart', () => {
    const withConstant = (value: number) => trace((a) => tf.add(a as never, tf.tensor1d([value, 1])), [f32(2)]);
    expect(graphKey(withConstant(1.5))).not.toBe(graphKey(withConstant(2.5)));
  });
});

describe('what does not fit', () => {
  it('is refused by name and shape', async () => {
    const run = await engine.compileGraph(
      trace((a, b) => tf.add(a as never, b as never), [f32(2), f32(2)]),
      'layer 3',
    );
    await expect(run.run([up([1, 2], 2)])).rejects.toThrow('executable "layer 3" takes 2 inputs, got 1');
    await expect(run.run([up([1, 2], 2), up([1, 2], 1, 2)])).rejects.toThrow(
      'executable "layer 3" input 1 is float32 [1,2], expected float32 [2]',
    );
    await expect(run.run([up([1, 2], 2), engine.upload(int32([1, 2], [2]))])).rejects.toThrow(/input 1 is int32/);
    const x = up([1, 2], 2);
    await expect(run.run([x, x], [x])).rejects.toThrow(/into\[0\] is also an input/);
    await expect(run.run([x, x], [up([1], 1)])).rejects.toThrow(/into\[0\] is float32 \[1\], expected float32 \[2\]/);
    await expect(run.run([{ ...x } as DeviceTensor, x])).rejects.toThrow(/not a tensor of an ONNX engine/);
  });

  it('a kernel without a lowering is named with its module path and shapes', async () => {
    const graph = graphOf(1, [{ kernel: 'Dilation2D', inputs: [0], outputs: [1] }], [1], 'blocks.3.mlp');
    const failed = engine.compileGraph(graph, 'odd');
    await expect(failed).rejects.toThrow(EngineError);
    await expect(failed).rejects.toThrow(
      'module "blocks.3.mlp": tfjs kernel Dilation2D(float32 [2]) has no lowering to ONNX',
    );
  });

  it('a dtype that engines do not compute with is refused', () => {
    expect(() => engine.upload(zeros('float16', [2]))).toThrow('a float16 tensor of shape [2] cannot be uploaded');
    expect(() => engine.upload({ dtype: 'float32', shape: [3], data: new Float32Array(2) })).toThrow(
      /takes 12 bytes, but its data has 8/,
    );
  });

  it.each([
    ['dml', /DirectML is part of Windows|not available/],
    ['cuda:0', /CUDA provider is not installed.*npm rebuild onnxruntime-node|NVIDIA driver/],
    ['coreml', /CoreML is part of macOS/],
  ])('an absent device %s is refused with what to install', async (device, message) => {
    await expect(createOnnxEngine({ device, threads: 1 })).rejects.toThrow(message);
  });

  it.each(['gpu', 'cuda:x', 'cpu:1', 'webgpu:0:1', ''])('a device named "%s" is refused', async (device) => {
    await expect(createOnnxEngine({ device, threads: 1 })).rejects.toThrow(/expected cpu, cuda:N/);
  });
});

describe('exactness', () => {
  const signature = [f32(64, 48), f32(48, 32), f32(32)];
  const fn = (x: unknown, w: unknown, b: unknown) => [
    tf.softmax(tf.tanh(tf.add(tf.matMul(x as never, w as never), b as never))),
    tf.sum(tf.matMul(x as never, w as never), 0),
  ];
  const values = signature.map(({ shape }, i) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return float32(
      Float32Array.from({ length: size }, (_, k) => Math.sin(k * (i + 1.3))),
      shape,
    );
  });

  it('one and two threads give the same bits', async () => {
    const results = [];
    for (const threads of [1, 2]) {
      const own = await createOnnxEngine({ device: 'cpu', threads });
      const run = await own.compileGraph(trace(fn as never, signature), 'bits');
      const outputs = await run.run(values.map((x) => own.upload(x)));
      results.push(outputs.map((y) => Array.from((own.host(y) as HostTensor).data as Float32Array)));
      await own.dispose();
    }
    expect(results[0]).toEqual(results[1]);
  });

  it.each([1, 2])('rows added by index have the same bits every time, with %i threads', async (threads) => {
    const own = await createOnnxEngine({ device: 'cpu', threads });
    const [n, rows, width] = [4000, 7, 33];
    const graph = trace(
      (x, ids) => tf.unsortedSegmentSum(x as never, ids as never, rows),
      [f32(n, width), { dtype: 'int32', shape: [n] }],
    );
    const run = await own.compileGraph(graph, 'rows');
    const x = Float32Array.from({ length: n * width }, (_, i) => Math.sin(i) * 10 ** (i % 5));
    const ids = Int32Array.from({ length: n }, (_, i) => (i * 7919) % rows);
    const expected = new Float32Array(rows * width);
    for (let i = 0; i < n; i++)
      for (let j = 0; j < width; j++) {
        const at = (ids[i] as number) * width + j;
        expected[at] = (expected[at] as number) + (x[i * width + j] as number);
      }
    for (let repeat = 0; repeat < 5; repeat++) {
      const [sum] = await run.run([own.upload(float32(x, [n, width])), own.upload(int32(ids, [n]))]);
      expect((own.host(sum as DeviceTensor) as HostTensor).data).toEqual(expected);
    }
    await own.dispose();
  });
});
