import type { Tensor } from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PhasedFunction, SlotId, TensorFunction, VjpOptions } from '../../src/engine/index.ts';
import {
  assemblePhased,
  expertCall,
  gelu,
  layerNorm,
  optimizeVjp,
  partition,
  softmaxCrossEntropy,
  tf,
  traceVjp,
  uniform,
} from '../../src/engine/index.ts';
import { createTfjsEngine, TfjsTensor } from '../../src/engine/tfjs/index.ts';
import { evaluate, expectClose, integers, random, signatureOfAll } from './reference.ts';

const engine = await createTfjsEngine({ device: 'cpu', threads: 1 });

type Experts = (rows: Tensor, counts: Tensor, path: string) => Tensor;

/** Runs all phases as a worker would, serving expert calls with functions; checks reads, writes and frees on the way. */
async function runPhases(
  phased: PhasedFunction,
  inputs: readonly Tensor[],
  cotangents: readonly (Tensor | null)[],
  forward?: Experts,
  backward?: (dy: Tensor, rows: Tensor, counts: Tensor, path: string) => Tensor,
): Promise<{ outputs: Tensor[]; gradients: (Tensor | null)[] }> {
  const slots = new Map<SlotId, Tensor>();
  for (const [i, slot] of phased.inputs.entries()) slots.set(slot, inputs[i] as Tensor);
  phased.cotangents.forEach((slot, i) => {
    if (slot !== null) slots.set(slot, cotangents[i] as Tensor);
  });
  const read = (slot: SlotId): Tensor => {
    const value = slots.get(slot);
    expect(value, `slot ${slot} has a value`).toBeDefined();
    return value as Tensor;
  };
  const sent: { rows: Tensor; path: string }[] = [];
  for (const phase of phased.phases) {
    const values = phase.reads.map((slot) => new TfjsTensor(read(slot), 'host'));
    const results = await phase.executable.run(values);
    phase.writes.forEach((slot, i) => {
      expect(slots.has(slot), `slot ${slot} is written once`).toBe(false);
      slots.set(slot, (results[i] as TfjsTensor).tensor as Tensor);
    });
    for (const slot of phase.frees) expect(slots.delete(slot), `slot ${slot} was there to be freed`).toBe(true);
    if (phase.call === undefined) continue;
    const { rows, counts, result, path } = phase.call;
    const back = sent.findLast((each) => each.path === path);
    if (back === undefined) {
      sent.push({ rows: read(rows), path });
      slots.set(result, (forward as Experts)(read(rows), read(counts), path));
    } else {
      sent.splice(sent.indexOf(back), 1);
      slots.set(result, backward?.(read(rows), back.rows, read(counts), path) as Tensor);
    }
  }
  const outputs = phased.outputs.map(read);
  const gradients = phased.gradients.map((slot) => (slot === null ? null : read(slot)));
  const last = new Set([...phased.inputs, ...phased.outputs, ...phased.gradients, ...phased.cotangents]);
  expect(
    [...slots.keys()].filter((slot) => !last.has(slot)),
    'slots that nobody freed',
  ).toEqual([]);
  return { outputs, gradients };
}

function bits(tensor: Tensor): Uint8Array {
  const data = tensor.dataSync();
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
}

const d = 8;
const shapes = [[d], [d], [d, 3 * d], [d, d], [d], [d], [d, 4 * d], [4 * d], [4 * d, d], [2]];

function block(...params: Tensor[]): Tensor[] {
  const [g1, b1, qkv, o, g2, b2, up, upBias, down, key, x] = params as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const [q, k, v] = tf.split(tf.matMul(layerNorm(x, g1, b1), qkv), 3, 2) as [Tensor, Tensor, Tensor];
  const scores = tf.softmax(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(d)));
  const attention = tf.matMul(tf.matMul(scores, v), o);
  const mask = tf.greater(uniform(key, attention.shape, 7), 0.2);
  const h = tf.add(x, tf.mul(attention, tf.cast(mask, 'float32')));
  const hidden = gelu(tf.add(tf.matMul(layerNorm(h, g2, b2), up), upBias));
  return [tf.add(h, tf.matMul(hidden, down)), tf.mean(h)];
}

function blockInputs(): Tensor[] {
  const params = shapes.map((shape, i) => (i === 9 ? integers([2], 1000, 5) : random(shape, i)));
  return [...params, random([2, 4, d], 50)];
}

async function compile(fn: TensorFunction, inputs: readonly Tensor[], options: VjpOptions): Promise<PhasedFunction> {
  return engine.vjp(fn, signatureOfAll(inputs), { name: 'layer', ...options });
}

const wrt = [...shapes.map((_, i) => i !== 9), true];
const weights = shapes.map(() => true).concat(false);

describe('cutting changes no bits', () => {
  const settings: [string, Partial<VjpOptions>][] = [
    ['forward and backward', {}],
    ['full recomputation', { remat: 'full' }],
    ['recomputation by path', { remat: () => 'full' }],
    ['weight gradients apart', { splitWeight: weights }],
    ['weight gradients apart, full recomputation', { splitWeight: weights, remat: 'full' }],
    ['fused', { fused: true }],
  ];
  test.each(settings)('%s', async (_name, more) => {
    const inputs = blockInputs();
    const cotangents = [random([2, 4, d], 60), tf.scalar(0.5)];
    const options = { wrt, differentiable: [true, true], ...more };
    const whole = optimizeVjp(traceVjp(block, signatureOfAll(inputs), options));
    const expected = evaluate(whole.graph, [...inputs, ...cotangents]);
    const phased = await compile(block, inputs, options);
    const { outputs, gradients } = await runPhases(phased, inputs, cotangents);
    const actual = [...outputs, ...gradients.filter((each) => each !== null)];
    expect(actual).toHaveLength(expected.length);
    actual.forEach((each, i) => {
      expect(bits(each), `value ${i}`).toEqual(bits(expected[i] as Tensor));
    });
    expect(gradients[9]).toBeNull();
  });

  test('the kinds of phases are what was asked for', async () => {
    const kinds = async (more: Partial<VjpOptions>) => {
      const phased = await compile(block, blockInputs(), { wrt, differentiable: [true, true], ...more });
      return phased.phases.map((phase) => phase.kind);
    };
    expect(await kinds({})).toEqual(['forward', 'backward']);
    expect(await kinds({ fused: true })).toEqual(['forward']);
    expect(await kinds({ splitWeight: weights })).toEqual(['forward', 'backward', 'backward-weight']);
    expect(await kinds({ wrt: wrt.map(() => false), differentiable: [false, false] })).toEqual(['forward']);
  });
});

/** A function made of random ops over two inputs and two weights, deterministic for its choices. */
function randomFunction(choices: readonly number[]): TensorFunction {
  const ops: ((a: Tensor, b: Tensor, w: Tensor) => Tensor)[] = [
    (a, b) => tf.add(a, b),
    (a, b) => tf.mul(a, b),
    (a) => tf.tanh(a),
    (a) => tf.softmax(a),
    (a, _b, w) => tf.matMul(a, w),
    (a, b) => tf.where(tf.greater(a, b), a, tf.mul(b, 0.5)),
    (a) => tf.relu(tf.sub(a, tf.mean(a, 1, true))),
    (a, b) => tf.matMul(tf.matMul(a, tf.transpose(b)), b),
    (a) => gelu(a),
    (a) => tf.add(a, expertCall(tf.mul(a, 0.5), tf.tensor1d([1, 2], 'int32'), { path: 'moe', experts: 2 })),
  ];
  return (x, y, w1, w2) => {
    const values = [x, y];
    const pick = (choice: number, from: number) => values[(choice >> from) % values.length] as Tensor;
    for (const choice of choices) {
      const op = ops[choice % ops.length] as (typeof ops)[number];
      values.push(op(pick(choice, 4), pick(choice, 9), choice & 8 ? w1 : w2));
    }
    return [values[values.length - 1] as Tensor, tf.sum(values[values.length >> 1] as Tensor)];
  };
}

test('random functions give the same bits however they are cut', async () => {
  const same: Experts = (rows) => tf.tanh(rows);
  const back = (dy: Tensor, rows: Tensor) => tf.mul(dy, tf.sub(1, tf.square(tf.tanh(rows))));
  const wanted = { wrt: [true, true, true, true], differentiable: [true, true] };
  const inputs = [random([3, 4], 1), random([3, 4], 2), random([4, 4], 3), random([4, 4], 4)];
  const cotangents = [random([3, 4], 5), tf.scalar(0.3)];
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(2 ** 14), { minLength: 1, maxLength: 14 }), async (choices) => {
      const fn = randomFunction(choices);
      const results: Uint8Array[][] = [];
      for (const more of [
        {},
        { remat: 'full' as const },
        { splitWeight: [false, false, true, true] },
        { splitWeight: [false, false, true, true], remat: 'full' as const },
        { fused: true },
      ]) {
        const phased = await compile(fn, inputs, { ...wanted, ...more });
        const { outputs, gradients } = await runPhases(phased, inputs, cotangents, same, back);
        results.push([...outputs, ...gradients.filter((each) => each !== null)].map(bits));
      }
      for (const other of results.slice(1)) expect(other).toEqual(results[0]);
    }),
    { numRuns: 60, seed: 7 },
  );
});

describe('residuals', () => {
  const residuals = async (more: Partial<VjpOptions> = {}) =>
    (await compile(block, blockInputs(), { wrt, differentiable: [true, true], ...more })).residualBytes;

  test('matrix products and softmax are kept, cheap nodes are computed again', async () => {
    const rows = 2 * 4;
    // qkv, attention scores, what they give, the residual stream after attention, the hidden layer; the mask as bytes.
    const expected = 4 * (rows * 3 * d + 2 * 4 * 4 + rows * d + rows * d + rows * 4 * d) + rows * d;
    expect(await residuals()).toBe(expected);
  });

  test('full recomputation keeps nothing but inputs', async () => {
    expect(await residuals({ remat: 'full' })).toBe(0);
  });

  test('a policy by path applies to the nodes of that path', async () => {
    const { withPath } = await import('../../src/engine/index.ts');
    const fn: TensorFunction = (x, w) => {
      const first = withPath('a', () => tf.tanh(tf.matMul(x as Tensor, w as Tensor)));
      return withPath('b', () => tf.tanh(tf.matMul(first, w as Tensor)));
    };
    const inputs = [random([3, 4], 1), random([4, 4], 2)];
    const bytes = async (remat: VjpOptions['remat']) =>
      (await compile(fn, inputs, { wrt: [true, true], differentiable: [true], ...(remat ? { remat } : {}) }))
        .residualBytes;
    expect(await bytes('none')).toBe(2 * 48);
    expect(await bytes((path) => (path === 'b' ? 'full' : 'none'))).toBe(48);
    expect(await bytes('full')).toBe(0);
  });

  test('a mask is kept as bytes, not as numbers', async () => {
    const fn: TensorFunction = (x, key) =>
      tf.mul(x as Tensor, tf.cast(tf.greater(uniform(key as Tensor, [6, 4], 1), 0.5), 'float32'));
    const inputs = [random([6, 4], 1), integers([2], 9)];
    const phased = await compile(fn, inputs, { wrt: [true, false], differentiable: [true] });
    expect(phased.residualBytes).toBe(24);
  });
});

describe('expert calls', () => {
  const scale = [0.5, -2];
  const serve: Experts = (rows, counts) => {
    const [first] = counts.dataSync();
    const factors = tf.range(0, rows.shape[0] as number, 1, 'int32');
    const mine = tf.cast(tf.less(factors, tf.scalar(first as number, 'int32')), 'float32');
    const factor = tf.add(tf.mul(mine, (scale[0] as number) - (scale[1] as number)), scale[1] as number);
    return tf.mul(tf.tanh(rows), tf.reshape(factor, [-1, 1]));
  };
  const serveBackward = (dy: Tensor, rows: Tensor, counts: Tensor): Tensor => {
    const [gradient] = tf.grads((r) => serve(r as Tensor, counts, ''))([rows], dy);
    return gradient as Tensor;
  };
  const moe = (call: (rows: Tensor, counts: Tensor, path: string) => Tensor): TensorFunction => {
    return (w, x, order) => {
      const mixed = tf.tanh(tf.matMul(x as Tensor, w as Tensor));
      const rows = tf.gather(mixed, order as never);
      const counts = tf.tensor1d([2, 3], 'int32');
      const first = call(rows, counts, 'moe');
      const second = call(tf.matMul(tf.relu(first), w as Tensor), counts, 'again');
      return [tf.add(mixed, tf.mul(second, first)), tf.sum(second)];
    };
  };
  const inputs = [random([4, 4], 1), random([5, 4], 2), tf.tensor1d([3, 1, 0, 4, 2], 'int32')];
  const traced = moe((rows, counts, path) => expertCall(rows, counts, { path, experts: 2 }));
  const cotangents = [random([5, 4], 3), tf.scalar(0.7)];

  test.each<[string, Partial<VjpOptions>, string[]]>([
    ['cut', {}, ['forward', 'forward', 'forward', 'backward', 'backward', 'backward']],
    ['full recomputation', { remat: 'full' }, ['forward', 'forward', 'forward', 'backward', 'backward', 'backward']],
    [
      'weights apart',
      { splitWeight: [true, false, false] },
      ['forward', 'forward', 'forward', 'backward', 'backward', 'backward', 'backward-weight'],
    ],
    ['fused', { fused: true }, ['forward', 'forward', 'forward', 'forward', 'forward']],
  ])('%s: the same as experts inside the layer', async (_name, more, kinds) => {
    const phased = await compile(traced, inputs, { wrt: [true, true, false], differentiable: [true, true], ...more });
    expect(phased.phases.map((phase) => phase.kind)).toEqual(kinds);
    const paths = phased.phases.flatMap((phase) => (phase.call ? [phase.call.path] : []));
    expect(paths).toEqual(['moe', 'again', 'again', 'moe']);
    const { outputs, gradients } = await runPhases(phased, inputs, cotangents, serve, serveBackward);
    const inside = moe(serve);
    const expected = inside(...inputs) as Tensor[];
    outputs.forEach((each, i) => {
      expectClose(each, expected[i] as Tensor, 1e-6, `output ${i}`);
    });
    const loss = (w: Tensor, x: Tensor): Tensor => {
      const [y, total] = inside(w, x, inputs[2] as Tensor) as Tensor[];
      const [c0, c1] = cotangents as [Tensor, Tensor];
      return tf.add(tf.sum(tf.mul(y as Tensor, c0)), tf.mul(total as Tensor, c1));
    };
    const grads = tf.grads(loss as never)([inputs[0] as Tensor, inputs[1] as Tensor]);
    grads.forEach((each, i) => {
      expectClose(gradients[i] as Tensor, each as Tensor, 1e-5, `gradient ${i}`);
    });
  });

  test('experts get their cotangents even where no gradient of the rows is wanted', async () => {
    const fn: TensorFunction = (x) =>
      expertCall(tf.mul(x as Tensor, 2), tf.tensor1d([3, 2], 'int32'), { path: 'moe', experts: 2 });
    const phased = await compile(fn, [random([5, 4], 2)], { wrt: [false], differentiable: [true] });
    const calls = phased.phases.flatMap((phase) => (phase.call ? [[phase.kind, phase.call.path]] : []));
    expect(calls).toEqual([
      ['forward', 'moe'],
      ['backward', 'moe'],
    ]);
  });

  test('a forward alone is cut in the same places', async () => {
    const phased = await compile(traced, inputs, { wrt: [false, false, false], differentiable: [false, false] });
    expect(phased.phases.map((phase) => phase.call?.path)).toEqual(['moe', 'again', undefined]);
    const { outputs } = await runPhases(phased, inputs, [], serve);
    expectClose(outputs[0] as Tensor, (moe(serve)(...inputs) as Tensor[])[0] as Tensor, 1e-6, 'output');
  });
});

describe('edges', () => {
  test('outputs that are inputs, gradients that are cotangents, inputs without gradients', async () => {
    const fn: TensorFunction = (x, unused) => [
      x as Tensor,
      tf.sum(tf.mul(x as Tensor, 2)),
      tf.argMax(unused as Tensor),
    ];
    const inputs = [random([3], 1), random([3], 2)];
    const phased = await compile(fn, inputs, { wrt: [true, true], differentiable: [true, true, false] });
    expect(phased.gradients[1]).toBeNull();
    expect(phased.cotangents[2]).toBeNull();
    const cotangents = [random([3], 3), tf.scalar(2), null];
    const { outputs, gradients } = await runPhases(phased, inputs, cotangents);
    expectClose(outputs[0] as Tensor, inputs[0] as Tensor, 1e-6, 'identity');
    expectClose(gradients[0] as Tensor, tf.add(cotangents[0] as Tensor, 4), 1e-6, 'gradient');
    const plain = await compile((x) => x as Tensor, [random([3])], { wrt: [true], differentiable: [true] });
    expect(plain.gradients).toEqual(plain.cotangents);
  });

  test('an output that no wanted gradient depends on has no cotangent', async () => {
    const fn: TensorFunction = (x, y) => [tf.mul(x as Tensor, 2), tf.exp(y as Tensor)];
    const phased = await compile(fn, [random([3]), random([3])], { wrt: [true, false], differentiable: [true, true] });
    expect(phased.cotangents[0]).not.toBeNull();
    expect(phased.cotangents[1]).toBeNull();
  });

  test('equal phases share executables', async () => {
    const other = await createTfjsEngine({ device: 'cpu', threads: 1 });
    const options = { wrt, differentiable: [true, true] };
    await other.vjp(block, signatureOfAll(blockInputs()), options);
    const first = other.compileStatistics();
    await other.vjp(block, signatureOfAll(blockInputs()), options);
    const second = other.compileStatistics();
    expect(first).toMatchObject({ traces: 1, executables: 2, cacheHits: 0 });
    expect(second).toMatchObject({ traces: 2, executables: 2, cacheHits: 2 });
    await other.dispose();
  });

  test('a loss layer in one phase', async () => {
    const fn: TensorFunction = (w, x, labels) =>
      tf.mean(softmaxCrossEntropy(tf.matMul(x as Tensor, w as Tensor), labels as Tensor));
    const inputs = [random([4, 5], 1), random([3, 4], 2), integers([3], 5)];
    const phased = await compile(fn, inputs, { wrt: [true, true, false], differentiable: [true], fused: true });
    expect(phased.phases).toHaveLength(1);
    expect(phased.residualBytes).toBe(0);
    expect(phased.phases[0]?.executable.flops).toBeGreaterThan(3 * 2 * 3 * 4 * 5);
  });

  test('assembling takes any compiler of graphs', async () => {
    const phased = partition(
      optimizeVjp(
        traceVjp((x) => tf.exp(x as Tensor), [{ dtype: 'float32', shape: [2] }], {
          wrt: [true],
          differentiable: [true],
        }),
      ),
      {},
    );
    const names: string[] = [];
    await assemblePhased(phased, 'layer', (graph, name) => {
      names.push(name);
      return engine.compileGraph(graph, name);
    });
    expect(names).toEqual(['layer forward 0', 'layer backward 1']);
  });
});
