import { describe, expect, it } from 'vitest';
import { buildModel, nn, type TaskInfo } from '../../src/modules/index.ts';
import { compilePlan, formatPlan, parallelSchema, summariseModel } from '../../src/plan/index.ts';

const optimizer = {
  slots: ({ shape }: { readonly shape: readonly number[] }) => (shape.length > 1 ? ['m', 'v'] : ['m']),
};
const text: TaskInfo = {
  inputs: [{ dtype: 'int32', shape: [16] }],
  targets: [{ dtype: 'int32', shape: [16] }],
  vocabSize: 32,
};

describe('model summaries', () => {
  it('count the FLOPs of matmuls exactly', () => {
    const model = {
      layers: [
        { name: 'a', module: nn.linear(32, 64, { bias: false }) },
        { name: 'b', module: nn.linear(64, 128, { bias: false }) },
        { name: 'c', module: nn.linear(128, 16, { bias: false }) },
      ],
      loss: nn.crossEntropy(),
    };
    const info: TaskInfo = {
      inputs: [{ dtype: 'float32', shape: [32] }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes: 16,
    };
    const { layers } = summariseModel(model, info, 4, optimizer);
    const matmul = 2 * 4 * 64 * 128;
    expect(layers[1]).toMatchObject({
      name: 'b',
      params: [{ path: 'b.weight', shape: [64, 128], bytes: 4 * 64 * 128, optimizerBytes: 8 * 64 * 128 }],
      forwardFlops: matmul,
      backwardFlops: 2 * matmul,
      backwardWeightFlops: matmul,
      outputs: [{ dtype: 'float32', shape: [4, 128] }],
      residualBytes: 4 * 4 * 64,
    });
    // The batch takes no gradient, so the first layer has only that of its weight.
    expect(layers[0]).toMatchObject({ backwardFlops: 2 * 4 * 32 * 64, backwardWeightFlops: 2 * 4 * 32 * 64 });
    expect(layers[2]?.forwardFlops).toBeGreaterThanOrEqual(2 * 4 * 128 * 16);
    expect(layers[2]?.outputs).toEqual([]);
  });

  it('see experts apart from their layer, whatever the mesh will be', async () => {
    const { model } = await buildModel(
      { name: 'transformer-lm', args: { layers: 4, dim: 32, moe: { experts: 4, top_k: 2, hidden: 64 } } },
      text,
    );
    const summary = summariseModel(model, text, 2, optimizer);
    expect(summary.layers.map(({ name }) => name)).toEqual([
      'embed',
      'blocks.0',
      'blocks.1',
      'blocks.2',
      'blocks.3',
      'head',
    ]);
    const [call] = summary.layers[1 + 1]?.expertCalls ?? [];
    expect(call).toMatchObject({ path: 'blocks.1.moe', rows: 2 * 16 * 2, width: 32 });
    expect(call?.experts).toHaveLength(4);
    expect(call?.flopsPerRow).toBeGreaterThanOrEqual(4 * 32 * 64);
    expect(call?.flopsPerRow).toBeLessThan(6 * 32 * 64);
    // Equal layers are measured alike.
    const { name: _a, params: _b, ...one } = summary.layers[1] as NonNullable<(typeof summary.layers)[1]>;
    const { name: _c, params: _d, ...three } = summary.layers[3] as NonNullable<(typeof summary.layers)[3]>;
    expect(three).toEqual(one);
    const plan = compilePlan({
      summary,
      parallel: parallelSchema.parse({ data: 2, pipeline: 2, expert: 2 }),
      batch: { global: 8, micro: 2 },
    });
    expect(plan.warnings).toEqual([]);
    expect(formatPlan(plan)).toContain('blocks.1');
  });

  it('count all parameters of the model once', async () => {
    const { model } = await buildModel(
      { name: 'transformer-lm', args: { layers: 2, dim: 32, moe: { experts: 2 } } },
      text,
    );
    const paths = summariseModel(model, text, 2, optimizer).layers.flatMap((layer) => [
      ...layer.params,
      ...layer.expertCalls.flatMap((call) => call.experts.flat()),
    ]);
    expect(new Set(paths.map(({ path }) => path)).size).toBe(paths.length);
    expect(
      paths.every(
        ({ bytes, optimizerBytes, shape }) => bytes > 0 && optimizerBytes === bytes * (shape.length > 1 ? 2 : 1),
      ),
    ).toBe(true);
  });
});
