import { afterAll, describe, expect, it } from 'vitest';
import { createEngine, type Engine, type tf, valueAndGradients } from '../../src/engine/index.ts';
import { buildModel, initParams, layerKey, modelParams, type TaskInfo } from '../../src/modules/index.ts';
import { modelFunction } from '../../src/schedulers/local/index.ts';
import { float32, type HostTensor, int32 } from '../../src/tensor/index.ts';

const [features, classes, batch, dim, experts, topK, hidden] = [5, 3, 7, 4, 3, 2, 6];
const info: TaskInfo = {
  inputs: [{ dtype: 'float32', shape: [features] }],
  targets: [{ dtype: 'int32', shape: [] }],
  classes,
};
const x = Array.from({ length: batch }, (_, i) =>
  Array.from({ length: features }, (_, k) => Math.sin(i * 5 + k * 1.3)),
);
const y = Array.from({ length: batch }, (_, i) => (i * 2) % classes);
const args = { dim, experts, top_k: topK, hidden, balance_loss: 0, z_loss: 0 };
const engine: Engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
afterAll(() => engine.dispose());

type Weights = Readonly<Record<string, HostTensor>>;

/** The model by hand, one example and one expert at a time, in double precision. */
function byHand(weights: Weights) {
  const at = (path: string) => weights[path] as HostTensor;
  const project = (input: readonly number[], path: string): number[] => {
    const { data, shape } = at(`${path}.weight`);
    const [, out] = shape as [number, number];
    const bias = weights[`${path}.bias`]?.data;
    return Array.from({ length: out }, (_, o) =>
      input.reduce((sum, value, i) => sum + value * (data[i * out + o] as number), (bias?.[o] as number) ?? 0),
    );
  };
  const relu = (values: readonly number[]) => values.map((value) => Math.max(0, value));
  const routed = new Array<number>(experts).fill(0);
  const losses = x.map((input, example) => {
    const h = relu(project(input, 'embed.linear'));
    const mean = h.reduce((a, b) => a + b, 0) / dim;
    const variance = h.reduce((sum, value) => sum + (value - mean) ** 2, 0) / dim;
    const gain = at('blocks.0.body.norm.gain').data;
    const shift = at('blocks.0.body.norm.bias').data;
    const normed = h.map(
      (value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * (gain[i] as number) + (shift[i] as number),
    );
    const logits = project(normed, 'blocks.0.body.moe.router');
    const scores = logits.map((value) => Math.exp(value) / logits.reduce((sum, each) => sum + Math.exp(each), 0));
    const chosen = scores
      .map((score, e) => [score, e] as const)
      .sort(([a], [b]) => b - a)
      .slice(0, topK);
    const total = chosen.reduce((sum, [score]) => sum + score, 0);
    const mixed = new Array<number>(dim).fill(0);
    for (const [score, e] of chosen) {
      routed[e] = (routed[e] as number) + 1;
      const path = `blocks.0.body.moe.experts.${e}`;
      project(relu(project(normed, `${path}.up`)), `${path}.down`).forEach((value, i) => {
        mixed[i] = (mixed[i] as number) + (score / total) * value;
      });
    }
    const out = project(
      h.map((value, i) => value + (mixed[i] as number)),
      'head.linear',
    );
    const norm = Math.log(out.reduce((sum, value) => sum + Math.exp(value), 0));
    return norm - (out[y[example] as number] as number);
  });
  return { loss: losses.reduce((a, b) => a + b, 0) / batch, routed };
}

describe('experts in the model function', () => {
  it('give the loss, the gradients and the counts of a model that runs each token by its own experts', async () => {
    const { model } = await buildModel({ name: 'moe-mlp', args } as never, info);
    const made = modelFunction(model, info, batch, { training: true });
    const weights = initParams(modelParams(model), 4);
    const like = (shape: readonly number[]) => ({ dtype: 'float32', shape }) as const;
    const executable = await engine.compile(
      (...given) => {
        const params = made.params.map(() => given.shift() as tf.Tensor);
        const state = new Map(made.state.map(({ path }) => [path, given.shift() as tf.Tensor]));
        const [key, input, target] = given as [tf.Tensor, tf.Tensor, tf.Tensor];
        const { value, gradients } = valueAndGradients(
          () => {
            const byPath = new Map(made.params.map(({ path }, i) => [path, params[i] as tf.Tensor]));
            const forward = made.forward({ params: byPath, state, key, inputs: [input] });
            return { ...forward, loss: made.loss(forward.outputs, [target]) };
          },
          ({ loss }) => loss,
          params,
        );
        return [value.loss, value.contributions.get('blocks.0.body.moe.routed') as tf.Tensor, ...gradients];
      },
      [
        ...made.params.map(({ spec }) => like(spec.shape)),
        ...made.state.map(({ spec }) => like(spec.shape)),
        { dtype: 'int32', shape: [2] },
        ...made.inputs,
        ...made.targets,
      ],
      { name: 'mixture' },
    );
    const outputs = await executable.run(
      [
        ...made.params.map(({ path }) => weights[path] as HostTensor),
        ...made.state.map(({ spec }) => float32(new Float32Array(experts), spec.shape)),
        layerKey(1, 0, 0, 'test'),
        float32(Float32Array.from(x.flat()), [batch, features]),
        int32(Int32Array.from(y), [batch]),
      ].map((tensor) => engine.upload(tensor)),
    );
    const [loss, routed, ...gradients] = await Promise.all(outputs.map((output) => engine.download(output)));
    const expected = byHand(weights);
    expect(loss?.data[0]).toBeCloseTo(expected.loss, 5);
    expect([...(routed?.data ?? [])]).toEqual(expected.routed);
    for (const [p, { path, spec }] of made.params.entries())
      for (let i = 0; i < spec.shape.reduce((a, b) => a * b, 1); i += 3) {
        const moved = (step: number) => {
          const data = Float64Array.from((weights[path] as HostTensor).data as Float32Array);
          data[i] = (data[i] as number) + step;
          return byHand({ ...weights, [path]: { dtype: 'float32', shape: spec.shape, data } as never }).loss;
        };
        const slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        expect(gradients[p]?.data[i], `${path} at ${i}`).toBeCloseTo(slope, 4);
      }
  });

  it('of which none is given a row get no gradient', async () => {
    const { model } = await buildModel({ name: 'moe-mlp', args: { ...args, top_k: 1, experts: 8 } } as never, info);
    const made = modelFunction(model, info, 2, { training: true });
    const weights = initParams(modelParams(model), 4);
    const ups = made.params.filter(({ path }) => path.endsWith('.up.weight'));
    const executable = await engine.compile(
      (...given) => {
        const params = new Map(made.params.map(({ path }, i) => [path, given[i] as tf.Tensor]));
        const state = new Map(made.state.map(({ path }, i) => [path, given[made.params.length + i] as tf.Tensor]));
        const [key, input, target] = given.slice(-3) as [tf.Tensor, tf.Tensor, tf.Tensor];
        const { value, gradients } = valueAndGradients(
          () => {
            const forward = made.forward({ params, state, key, inputs: [input] });
            return { ...forward, loss: made.loss(forward.outputs, [target]) };
          },
          ({ loss }) => loss,
          ups.map(({ path }) => params.get(path) as tf.Tensor),
        );
        return [value.contributions.get('blocks.0.body.moe.routed') as tf.Tensor, ...gradients];
      },
      [
        ...[...made.params, ...made.state].map(({ spec }) => ({ dtype: 'float32', shape: spec.shape }) as const),
        { dtype: 'int32', shape: [2] },
        ...made.inputs,
        ...made.targets,
      ],
      { name: 'unused experts' },
    );
    const outputs = await executable.run(
      [
        ...made.params.map(({ path }) => weights[path] as HostTensor),
        ...made.state.map(({ spec }) => float32(new Float32Array(8), spec.shape)),
        layerKey(1, 0, 0, 'test'),
        float32(Float32Array.from(x.slice(0, 2).flat()), [2, features]),
        int32(Int32Array.from(y.slice(0, 2)), [2]),
      ].map((tensor) => engine.upload(tensor)),
    );
    const [routed, ...gradients] = await Promise.all(outputs.map((output) => engine.download(output)));
    const counts = Array.from(routed?.data ?? [], Number);
    expect(counts.reduce((a, b) => a + b, 0)).toBe(2);
    for (const [i, { path }] of ups.entries()) {
      const expert = Number(/experts\.(\d+)/.exec(path)?.[1]);
      const moves = [...(gradients[i]?.data ?? [])].some((value) => value !== 0);
      if (counts[expert] === 0) expect(moves).toBe(false);
    }
  });
});
