import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { Signature } from '../../src/engine/index.ts';
import { trace } from '../../src/engine/index.ts';
import type { Model, Module, TaskInfo } from '../../src/modules/index.ts';
import {
  buildModel,
  init,
  layerFunction,
  layerKey,
  ModuleError,
  modelFunctions,
  modelParams,
  namedParams,
  nn,
  param,
  streamOf,
} from '../../src/modules/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { runModule, wave } from './eager.ts';

const f32 = (...shape: number[]): Signature => ({ dtype: 'float32', shape });
const i32 = (...shape: number[]): Signature => ({ dtype: 'int32', shape });
const text: TaskInfo = { inputs: [i32(8)], targets: [i32(8)], vocabSize: 11 };

async function moeModel(): Promise<Model> {
  const args = { layers: 4, dim: 16, heads: 2, moe: { experts: 3, top_k: 2, bias_rate: 0.01 }, dropout: 0.1 };
  return (await buildModel({ name: 'transformer-lm', args }, text)).model;
}

describe('layer functions', () => {
  it('lay inputs and outputs out as documented', async () => {
    const functions = modelFunctions(await moeModel(), text, 2, 'train');
    expect(functions.map((f) => f.name)).toEqual(['embed', 'blocks.0', 'blocks.1', 'blocks.2', 'blocks.3', 'head']);
    const block = functions[2];
    expect(block?.params.map((p) => p.path)).toEqual([
      'blocks.1.attn.k.weight',
      'blocks.1.attn.o.weight',
      'blocks.1.attn.q.weight',
      'blocks.1.attn.v.weight',
      'blocks.1.moe.router.weight',
      'blocks.1.norm1.bias',
      'blocks.1.norm1.gain',
      'blocks.1.norm2.bias',
      'blocks.1.norm2.gain',
    ]);
    expect(block?.state.map((s) => s.path)).toEqual(['blocks.1.moe.routerBias']);
    expect(block?.inputs.slice(-2)).toEqual([i32(2), f32(2, 8, 16)]);
    expect(block?.layout.activations).toEqual([f32(2, 8, 16)]);
    expect(block?.layout.objective).toBe(1);
    expect(block?.layout.metrics).toEqual([
      { name: 'blocks.1.moe.balanceLoss', signature: f32() },
      { name: 'blocks.1.moe.zLoss', signature: f32() },
      { name: 'blocks.1.moe.load', signature: f32(3) },
      { name: 'blocks.1.moe.balance', signature: f32() },
    ]);
    expect(block?.layout.contributions).toEqual(['blocks.1.moe.routerBias']);
    const call = block?.expertCalls[0];
    expect(call?.path).toBe('blocks.1.moe');
    expect(call?.params[2]?.map((p) => p.path)).toEqual([
      'blocks.1.moe.experts.2.down.weight',
      'blocks.1.moe.experts.2.up.weight',
    ]);
    const head = functions[5];
    expect(head?.layout.activations).toEqual([]);
    expect(head?.layout.metrics.map((m) => m.name)).toEqual(['loss']);
    expect(head?.inputs.slice(-2)).toEqual([f32(2, 8, 16), i32(2, 8)]);
  });

  it('evaluate without randomness, auxiliary losses or contributions; predict stops at the outputs', async () => {
    const model = await moeModel();
    const evaluate = modelFunctions(model, text, 2, 'evaluate');
    expect(evaluate[5]?.layout.metrics.map((m) => m.name)).toEqual(['loss', 'accuracy']);
    expect(evaluate[2]?.layout.contributions).toEqual([]);
    const predict = modelFunctions(model, text, 1, 'predict');
    expect(predict[5]?.layout.activations).toEqual([f32(1, 8, 11)]);
  });

  it('of equal layers trace to equal graphs, and so do their experts', async () => {
    const functions = modelFunctions(await moeModel(), text, 2, 'train');
    const graph = (i: number) => {
      const f = functions[i] as (typeof functions)[number];
      return graphText(f.fn, f.inputs);
    };
    expect(graph(3)).toBe(graph(1));
    expect(graph(4)).toBe(graph(2));
    expect(graph(2)).not.toBe(graph(1));
    const expert = (i: number) => {
      const call = functions[i]?.expertCalls[0];
      const own = (call?.params[0] ?? []).map(({ spec }) => f32(...spec.shape));
      return graphText((call as NonNullable<typeof call>).fn, [...own, i32(2), f32(4, 16)]);
    };
    expect(expert(4)).toBe(expert(2));
  });

  it('collects all parameters of a model, experts included, in path order', async () => {
    const paths = modelParams(await moeModel()).map((p) => p.path);
    expect(paths).toEqual([...paths].sort());
    expect(paths.filter((p) => p.includes('.experts.'))).toHaveLength(2 * 3 * 2);
    expect(new Set(paths).size).toBe(paths.length);
  });

  it('add auxiliary losses to the objective of their layer', async () => {
    const module: Module = {
      kind: 'aux',
      forward(_params, [x], ctx) {
        ctx.addLoss('penalty', tf.sum(x as tf.Tensor));
        return x as tf.Tensor;
      },
    };
    const run = await runModule(module, [float32([1, 2, 3], [3])]);
    expect(run.objective).toBe(6);
    expect(run.metrics['m.penalty']?.data[0]).toBe(6);
  });

  it('give a module that runs twice different random numbers and metric names', async () => {
    const child: Module = {
      kind: 'noise',
      forward(_params, _inputs, ctx) {
        const u = ctx.uniform([4]);
        ctx.metric('mean', tf.mean(u));
        return u;
      },
    };
    const module: Module = {
      kind: 'twice',
      children: { child },
      forward: (_params, [x], ctx) => [ctx.run('child', x as tf.Tensor), ctx.run('child', x as tf.Tensor)],
    };
    const run = await runModule(module, [wave([1])]);
    expect(run.activations[0]?.data).not.toEqual(run.activations[1]?.data);
    expect(Object.keys(run.metrics)).toEqual(['m.child.mean', 'm.child.mean#2']);
  });
});

describe('random keys', () => {
  it('depend on seed, step, microbatch and path, and on nothing else', () => {
    const key = (...args: Parameters<typeof layerKey>) => [...(layerKey(...args).data as Int32Array)].join();
    const base = key(1, 2, 3, 'blocks.0');
    expect(key(1, 2, 3, 'blocks.0')).toBe(base);
    const others = [
      key(2, 2, 3, 'blocks.0'),
      key(1, 3, 3, 'blocks.0'),
      key(1, 2, 4, 'blocks.0'),
      key(1, 2, 3, 'blocks.1'),
      key(1, 3, 2, 'blocks.0'),
    ];
    expect(new Set([base, ...others]).size).toBe(6);
  });

  it('tell draws apart by module and call', () => {
    expect(new Set([streamOf('a', 0), streamOf('a', 1), streamOf('b', 0), streamOf('', 0)]).size).toBe(4);
  });
});

describe('errors name the module', () => {
  const one = (module: Module) => () => layerFunction({ name: 'blocks.3', module }, [f32(2, 4)], { training: true });
  const forward = (fn: Module['forward'], extra: Partial<Module> = {}): Module => ({
    kind: 'mine',
    ...extra,
    forward: fn,
  });

  it('when it throws, with its kind, path and input shapes', () => {
    const inner = forward(() => {
      throw new Error('no can do');
    });
    expect(one(nn.sequential({ first: nn.linear(4, 5), second: inner }))).toThrow(
      'mine at "blocks.3.second": failed on float32 [2,5]: no can do',
    );
    try {
      one(nn.sequential([inner]))();
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(ModuleError);
      expect(error).toMatchObject({ path: 'blocks.3.0', kind: 'mine' });
    }
  });

  it('when shapes do not fit', () => {
    expect(one(nn.linear(7, 3))).toThrow(
      'linear at "blocks.3": failed on float32 [2,4]: the input is [2,4], but its last axis should be 7',
    );
    expect(one(forward((_p, [x]) => tf.matMul(x as tf.Tensor2D, x as tf.Tensor2D)))).toThrow(
      /mine at "blocks.3": failed on float32 \[2,4\].*MatMul.*inner sizes 4 and 2/s,
    );
    expect(one(nn.residual(nn.linear(4, 5)))).toThrow('the body maps [2,4] to [2,5]');
  });

  it('when it returns something else than tensors', () => {
    expect(one(forward(() => undefined as never))).toThrow(
      'mine at "blocks.3": forward returned undefined; expected a tensor',
    );
    expect(one(forward((async () => 1) as never))).toThrow('a promise (forward must not be async)');
    expect(one(forward((_p, [x]) => [x, 3] as never))).toThrow('forward returned number');
  });

  it('when it asks for a child, parameter or state that is not there', () => {
    const children = { attention: nn.linear(4, 4), mlp: nn.linear(4, 4) };
    expect(one(forward((_p, [x], ctx) => ctx.run('atention', x as tf.Tensor), { children }))).toThrow(
      'has no child "atention"; it has attention, mlp (did you mean "attention"?)',
    );
    const params = { weight: param([4], init.zeros) };
    expect(one(forward(({ wieght }) => wieght as tf.Tensor, { params }))).toThrow(
      'has no parameter "wieght"; it has weight (did you mean "weight"?)',
    );
    expect(
      one(
        forward((_p, [x], ctx) => {
          ctx.contribute('count', x);
          return x;
        }),
      ),
    ).toThrow('has no state "count"; it has none');
  });

  it('when a value is read while tracing', () => {
    expect(
      one(
        forward((_p, [x]) => {
          x.dataSync();
          return x;
        }),
      ),
    ).toThrow(/mine at "blocks.3".*were read/s);
  });

  it('when a contribution, loss or expert call has the wrong shape', () => {
    const state = { total: { shape: [3], init: 0, update: (s: tf.Tensor) => s } };
    expect(
      one(
        forward(
          (_p, [x], ctx) => {
            ctx.contribute('total', x);
            return x;
          },
          { state },
        ),
      ),
    ).toThrow('contributed float32 [2,4] to state "total", which is float32 [3]');
    expect(
      one(
        forward((_p, [x], ctx) => {
          ctx.addLoss('l', x);
          return x;
        }),
      ),
    ).toThrow('takes a float32 scalar, not float32 [2,4]');
    const experts = [nn.linear(4, 4), nn.linear(4, 4)];
    const wrong = forward((_p, [x], ctx) => ctx.experts(x as tf.Tensor, tf.zeros([3], 'int32')), { experts });
    expect(one(wrong)).toThrow('takes counts as int32 [2], one per expert, not int32 [3]');
    expect(one(forward((_p, [x]) => x as tf.Tensor, { experts }))).toThrow(
      'declares experts, but its forward did not call ctx.experts',
    );
  });

  it('when a model is malformed', () => {
    const model = (names: string[], module: Module = nn.flatten()): Model => ({
      layers: names.map((name) => ({ name, module })),
      loss: nn.crossEntropy(),
    });
    const info: TaskInfo = { inputs: [f32(4)], targets: [i32()], classes: 4 };
    expect(() => modelFunctions(model([]), info, 2, 'train')).toThrow('at least one layer');
    expect(() => modelFunctions(model(['a', 'a']), info, 2, 'train')).toThrow('two layers are named "a"');
    expect(() => modelFunctions(model(['loss']), info, 2, 'train')).toThrow('cannot be named "loss"');
    const unlike = { ...nn.flatten(), experts: [nn.linear(4, 4), nn.linear(4, 5)] };
    expect(() => modelFunctions(model(['a'], unlike), info, 2, 'train')).toThrow(
      /expert 1 has parameters .*; all experts of a module must be alike/,
    );
    const wrongOutput = model(
      ['a'],
      nn.sequential([nn.linear(4, 3), { kind: 'sum', forward: (_p, [x]) => tf.sum(x as tf.Tensor) }]),
    );
    expect(() => modelFunctions(wrongOutput, info, 2, 'train')).toThrow(
      'crossEntropy at "loss": failed on float32 [], int32 [2]: logits must be float32 [..., classes]',
    );
  });
});

describe('namedParams', () => {
  it('lists experts only when asked to', () => {
    const module = nn.moe({
      dim: 2,
      topK: 1,
      experts: [nn.linear(2, 2, { bias: false }), nn.linear(2, 2, { bias: false })],
    });
    expect(namedParams(module, 'x').map((p) => p.path)).toEqual([
      'x.experts.0.weight',
      'x.experts.1.weight',
      'x.router.weight',
    ]);
    expect(namedParams(module, 'x', { experts: false }).map((p) => p.path)).toEqual(['x.router.weight']);
  });
});

function graphText(fn: Parameters<typeof trace>[0], signature: readonly Signature[]): string {
  const graph = trace(fn, signature);
  return JSON.stringify([
    graph.inputs,
    graph.outputs,
    graph.nodes,
    [...graph.values.values()],
    graph.constants.map((c) => [c.id, [...c.data]]),
  ]);
}
