import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createEngine, type DeviceTensor, type Engine, type Executable, tf } from '../../src/engine/index.ts';
import { float32, type HostTensor } from '../../src/tensor/index.ts';

const shape = [3, 4];
const like = { dtype: 'float32' as const, shape };

/** Executables of one kind of tensor, with one to three inputs and outputs. */
const functions: readonly { readonly inputs: number; of(...given: tf.Tensor[]): tf.Tensor[] }[] = [
  { inputs: 1, of: (a) => [tf.tanh(a as tf.Tensor)] },
  { inputs: 2, of: (a, b) => [tf.add(a as tf.Tensor, b as tf.Tensor), tf.sub(a as tf.Tensor, b as tf.Tensor)] },
  { inputs: 2, of: (a, b) => [tf.mul(tf.sigmoid(a as tf.Tensor), b as tf.Tensor), a as tf.Tensor] },
  {
    inputs: 3,
    of: (a, b, c) => {
      const product = tf.matMul(tf.matMul(a as tf.Tensor2D, b as tf.Tensor2D, false, true), c as tf.Tensor2D);
      return [tf.relu(product), tf.ones([3, 4]), tf.exp(tf.neg(tf.abs(product)))];
    },
  },
];

let engine: Engine;
let executables: Executable[];
async function begin(): Promise<void> {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
  executables = [];
  for (const { inputs, of } of functions) executables.push(await engine.compile(of, new Array(inputs).fill(like)));
}
beforeEach(begin);
afterEach(() => engine.dispose());

const upload = (seed: number): DeviceTensor =>
  engine.upload(
    float32(
      Float32Array.from({ length: 12 }, (_, i) => Math.sin(seed * 12 + i)),
      shape,
    ),
  );

const memory = (tensor: DeviceTensor) => (engine.host(tensor) as HostTensor).data as Float32Array;
const read = (tensor: DeviceTensor): number[] => [...memory(tensor)];

const run = (executable: Executable, inputs: readonly DeviceTensor[]): DeviceTensor[] => {
  const outputs = executable.defer?.(inputs);
  if (!outputs) throw new Error('this engine does not put runs off');
  return outputs;
};

/** What to do: run an executable on earlier values, look at a value, give one back, write over one that was shown. */
const action = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('run' as const),
      which: fc.nat(3),
      from: fc.array(fc.nat(), { minLength: 3, maxLength: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('read' as const), at: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('release' as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('upload' as const), seed: fc.nat(9) }) },
);

/** Does it all, with runs at once or put off. What was read on the way and what is left at the end. */
async function perform(actions: readonly (typeof action extends fc.Arbitrary<infer T> ? T : never)[], defers: boolean) {
  const values: DeviceTensor[] = [upload(0), upload(1)];
  const seen: number[][] = [];
  const at = (place: number): number => place % values.length;
  for (const each of actions)
    if (each.kind === 'run') {
      const executable = executables[each.which] as Executable;
      const inputs = executable.inputs.map((_, i) => values[at(each.from[i] as number)] as DeviceTensor);
      values.push(...(defers ? run(executable, inputs) : await executable.run(inputs)));
    } else if (each.kind === 'read') seen.push(read(values[at(each.at)] as DeviceTensor));
    else if (each.kind === 'upload') values.push(upload(each.seed));
    else if (values.length > 2) engine.release(values.splice(at(each.at), 1)[0] as DeviceTensor);
  seen.push(...values.map(read));
  for (const value of values) engine.release(value);
  return seen;
}

describe('runs that are put off', () => {
  it('give the bits of runs at once, whatever is looked at or given back in between', {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(action, { minLength: 3, maxLength: 20 }), async (actions) => {
        // An engine joins a limited number of sequences.
        await engine.dispose();
        await begin();
        const expected = await perform(actions, false);
        // The third time round, sequences are joined.
        for (let round = 0; round < 4; round++) expect(await perform(actions, true)).toEqual(expected);
      }),
      { numRuns: 25, seed: 11 },
    );
  });

  it('become one session when the same sequence comes again, and not before', async () => {
    const own = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
    const add = await own.compile((a, b) => tf.add(a, b), [like, like]);
    const square = await own.compile((a) => tf.square(a), [like]);
    const compiled = () => own.compileStatistics().executables;
    const given = own.upload(float32(new Float32Array(12).fill(0.5), shape));
    for (let round = 0; round < 5; round++) {
      expect(compiled()).toBe(round < 3 ? 2 : 3);
      const [sum] = run(add, [given, given]) as [DeviceTensor];
      const [result] = run(square, [sum]) as [DeviceTensor];
      own.release(sum);
      expect(own.inUse?.(given)).toBe(true);
      expect(own.host(result)?.data[0]).toBe(1);
      expect(own.inUse?.(given)).toBe(false);
    }
    await own.dispose();
  });

  it('read what they were given as it was then', async () => {
    const add = executables[1] as Executable;
    const given = upload(3);
    const before = read(given);
    const [doubled] = run(add, [given, given]) as [DeviceTensor];
    // Whoever asks for the memory may write to it: the run is over by then.
    memory(given).fill(7);
    expect(read(doubled)).toEqual(before.map((value) => Math.fround(value + value)));
    const [again] = run(add, [given, given]) as [DeviceTensor];
    await (executables[0] as Executable).run([upload(4)], [given]);
    expect(read(again)).toEqual(new Array(12).fill(14));
  });

  it('are checked when they are asked for', () => {
    const add = executables[1] as Executable;
    expect(() => add.defer?.([upload(0)])).toThrow(/takes 2 inputs, got 1/);
    expect(() => add.defer?.([upload(0), engine.upload(float32([1], [1]))])).toThrow(/input 1 is float32 \[1\]/);
    const [sum] = run(add, [upload(0), upload(1)]) as [DeviceTensor];
    engine.release(sum);
    expect(() => add.defer?.([sum, upload(0)])).toThrow(/input 0 was released/);
  });
});
