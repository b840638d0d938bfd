import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import * as tfl from '@tensorflow/tfjs-layers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TaskInfo } from '../../src/modules/index.ts';
import {
  buildModel,
  initParams,
  modelFunctions,
  modelParams,
  modelSchema,
  nn,
  prepareModel,
  wrapLayersModel,
  zoo,
} from '../../src/modules/index.ts';
import { sizeOf } from '../../src/tensor/index.ts';
import { runModule, wave } from './eager.ts';

const text: TaskInfo = {
  inputs: [{ dtype: 'int32', shape: [8] }],
  targets: [{ dtype: 'int32', shape: [8] }],
  vocabSize: 11,
};
const digits: TaskInfo = {
  inputs: [{ dtype: 'float32', shape: [28, 28, 1] }],
  targets: [{ dtype: 'int32', shape: [] }],
  classes: 10,
};
const line: TaskInfo = { inputs: [{ dtype: 'float32', shape: [3] }], targets: [{ dtype: 'float32', shape: [2] }] };

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'plexus-zoo-'));
  await tf.setBackend('cpu');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function layersOf(config: Parameters<typeof buildModel>[0], info: TaskInfo) {
  const { model } = await buildModel(config, info);
  return modelFunctions(model, info, 2, 'train');
}

describe('zoo', () => {
  const cases: [string, Record<string, unknown>, TaskInfo][] = [
    ['transformer-lm', {}, text],
    [
      'transformer-lm',
      {
        layers: 2,
        dim: 24,
        heads: 4,
        kv_heads: 2,
        norm: 'rms',
        ffn: { kind: 'swiglu' },
        positions: 'learned',
        dropout: 0.1,
        bias: true,
      },
      text,
    ],
    [
      'transformer-lm',
      {
        layers: 2,
        dim: 8,
        heads: 2,
        moe: { experts: 4, capacity_factor: 1.5, drop_policy: 'probs', shared: 8, scores: 'sigmoid' },
      },
      text,
    ],
    ['lstm-lm', { dim: 4, hidden: 6, layers: 2, dropout: 0.1 }, text],
    ['gru-lm', { dim: 4, hidden: 6 }, text],
    ['mlp', {}, digits],
    ['mlp', { hidden: [], activation: 'tanh' }, line],
    ['spiking-mlp', {}, digits],
    ['cnn', { channels: [4, 8], norm: 'batch', dropout: 0.2 }, digits],
    [
      'cnn',
      { channels: [4], pool: 'average', hidden: null },
      { ...digits, inputs: [{ dtype: 'float32', shape: [28, 28] }] },
    ],
  ];
  for (const [name, args, info] of cases)
    it(`builds ${name} ${JSON.stringify(args)}`, async () => {
      const functions = await layersOf({ name, args }, info);
      expect(functions.at(-1)?.layout.metrics[0]?.name).toBe('loss');
    });

  it('counts the parameters of a transformer', async () => {
    const args = { layers: 2, dim: 16, heads: 4, kv_heads: 2, norm: 'rms', ffn: { kind: 'mlp', hidden: 64 } };
    const { model } = await buildModel({ name: 'transformer-lm', args }, text);
    const count = modelParams(model).reduce((sum, p) => sum + sizeOf(p.spec.shape), 0);
    const block = 16 * 16 * 2 + 16 * 8 * 2 + 2 * 16 * 64 + 2 * 16;
    expect(count).toBe(11 * 16 + 2 * block + 16 + 16 * 11);
  });

  it('warns that expert choice sees the future', async () => {
    const { warnings } = await buildModel(
      { name: 'transformer-lm', args: { layers: 2, moe: { routing: 'expert' } } },
      text,
    );
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/expert-choice .* sees future tokens/);
  });

  it('says what does not suit the task', async () => {
    await expect(buildModel({ name: 'transformer-lm', args: {} }, digits)).rejects.toThrow(
      'needs text (one int32 input [length] and a vocabulary), but the dataset gives float32 [28,28,1] and no vocabulary',
    );
    await expect(buildModel({ name: 'cnn', args: {} }, text)).rejects.toThrow(
      'needs one float32 input, but the dataset gives int32 [8]',
    );
    await expect(buildModel({ name: 'cnn', args: { channels: [1, 1, 1, 1, 1] } }, digits)).rejects.toThrow('use fewer');
    await expect(buildModel({ name: 'transformer-lm', args: { moe: { layers: [4] } } }, text)).rejects.toThrow(
      'names block 4, but blocks are 0 to 3',
    );
  });

  it('describes every argument', () => {
    for (const entry of Object.values(zoo)) {
      expect(entry.summary.length).toBeGreaterThan(10);
      const shape = (entry.schema as unknown as { shape: Record<string, { description?: string }> }).shape;
      for (const [key, field] of Object.entries(shape))
        if (key !== 'ffn') expect(field.description, `${entry.name}.${key}`).toBeTruthy();
    }
  });
});

describe('model section', () => {
  const issues = (value: unknown) =>
    modelSchema.safeParse(value).error?.issues.map((i) => `${i.path.join('.')}: ${i.message}`);

  it('fills defaults in', () => {
    const parsed = modelSchema.parse({ name: 'transformer-lm', args: { layers: 2, moe: {} } });
    expect(parsed.args).toMatchObject({
      layers: 2,
      dim: 128,
      ffn: { kind: 'mlp', hidden: null },
      moe: { experts: 4, top_k: 2 },
    });
  });

  it('refuses unknown names, keys and values', () => {
    expect(issues({ name: 'transfomer-lm' })).toEqual([
      expect.stringMatching(/^name: there is no model "transfomer-lm" .*did you mean "transformer-lm"/),
    ]);
    expect(issues({ name: 'mlp', args: { hiden: [3] } })).toEqual([
      expect.stringMatching(/^args: Unrecognized key: "hiden"/),
    ]);
    expect(issues({ name: 'mlp', args: { dropout: 1.5 } })).toEqual([expect.stringMatching(/^args.dropout: /)]);
    expect(issues({})).toEqual([expect.stringMatching(/either a `name` .* or a `file`/)]);
    expect(issues({ name: 'mlp', file: 'a.ts' })).toEqual([expect.stringMatching(/either/)]);
  });
});

describe('model files', () => {
  const write = async (name: string, code: string) => {
    await mkdir(join(dir, 'src'), { recursive: true });
    await writeFile(join(dir, 'src', name), code);
    return prepareModel({ file: `src/${name}`, args: { width: 5 } }, { baseDir: dir, outDir: join(dir, 'out') });
  };

  it('may be TypeScript, import plexus, tfjs and other files, and use our tfjs', async () => {
    await writeFile(join(dir, 'helper.ts'), 'export const factor: number = 2;');
    const config = await write(
      'good.ts',
      `import * as tf from '@tensorflow/tfjs-core';
       import { nn, param, init, type Model, type TaskInfo } from 'plexus/modules';
       import { factor } from '../helper.ts';
       const doubled = { kind: 'doubled', params: { bias: param([10], init.zeros) }, forward: ({ bias }, [x]) => tf.add(tf.mul(x, factor), bias) };
       export function model(args: { width: number }, info: TaskInfo): Model {
         const layers = [{ name: 'one', module: nn.sequential([nn.flatten(), nn.linear(784, args.width)]) },
           { name: 'two', module: nn.sequential({ out: nn.linear(args.width, 10), doubled }) }];
         return { layers, loss: nn.crossEntropy() };
       }`,
    );
    expect(config).toMatchObject({ usesLayers: false, args: { width: 5 } });
    const functions = await layersOf(config, digits);
    expect(functions.flatMap((f) => f.params.map((p) => p.path))).toEqual([
      'one.1.bias',
      'one.1.weight',
      'two.doubled.bias',
      'two.out.bias',
      'two.out.weight',
    ]);
  });

  it('may export a module, which gets the loss of its task', async () => {
    const config = await write(
      'module.js',
      `import { nn } from 'plexus'; export const module = () => nn.linear(3, 2);`,
    );
    const functions = await layersOf(config, line);
    expect(functions.map((f) => f.name)).toEqual(['model']);
  });

  it('may be given without being prepared', async () => {
    await write('plain.js', `import { nn } from 'plexus'; export const module = nn.linear(3, 2);`);
    const { model } = await buildModel({ file: join(dir, 'src', 'plain.js'), args: {} }, line);
    expect(model.layers).toHaveLength(1);
  });

  it('that are wrong say what was found', async () => {
    const fail = async (name: string, code: string) => buildModel(await write(name, code), line);
    await expect(fail('a.ts', 'export const net = 3;')).rejects.toThrow(
      /a.ts exports net; expected `model` or `module`/,
    );
    await expect(fail('b.ts', 'export const model = () => ({ layer: [] });')).rejects.toThrow(
      /`model` of .*b.ts gives an object with layer; expected a model, \{ layers/,
    );
    await expect(fail('c.ts', 'export const module = () => 3;')).rejects.toThrow(/gives number; expected a module/);
    await expect(fail('d.ts', "export const module = () => { throw new Error('oh'); };")).rejects.toThrow(
      /module\(\) of .*d.ts threw: oh/,
    );
    await expect(fail('e.ts', 'export const = 3;')).rejects.toThrow(/could not be compiled:\n.*e.ts:1:14: /);
    await expect(fail('f.ts', "import 'plexus/worker';")).rejects.toThrow(
      /"plexus\/worker" cannot be imported by a model file/,
    );
    await expect(prepareModel({ file: 'no.ts', args: {} }, { baseDir: dir, outDir: dir })).rejects.toThrow(
      /no.ts does not exist/,
    );
  });
});

describe('tfjs layers models', () => {
  const convnet = () =>
    tfl.sequential({
      layers: [
        tfl.layers.conv2d({ inputShape: [6, 6, 2], filters: 3, kernelSize: 3, activation: 'relu', name: 'conv' }),
        tfl.layers.maxPooling2d({ poolSize: 2, name: 'pool' }),
        tfl.layers.flatten({ name: 'flat' }),
        tfl.layers.dense({ units: 5, activation: 'tanh', name: 'hidden', biasInitializer: 'randomNormal' }),
        tfl.layers.dense({ units: 4, activation: 'softmax', name: 'out' }),
      ],
    });

  it('compute what tfjs computes, with weights as parameters', async () => {
    const model = convnet();
    const layers = wrapLayersModel(model, { weights: 'current', logits: false });
    expect(layers.map((l) => l.name)).toEqual(['conv', 'pool', 'flat', 'hidden', 'out']);
    const x = wave([3, 6, 6, 2]);
    const run = await runModule(nn.sequential(Object.fromEntries(layers.map((l) => [l.name, l.module]))), [x], {
      cotangents: [wave([3, 4], 2)],
      gradients: true,
    });
    expect(run.fn.params.map((p) => p.path)).toEqual([
      'm.conv.bias',
      'm.conv.kernel',
      'm.hidden.bias',
      'm.hidden.kernel',
      'm.out.bias',
      'm.out.kernel',
    ]);
    const expected = (model.predict(tf.tensor(x.data as Float32Array, [3, 6, 6, 2])) as tf.Tensor).dataSync();
    for (const [i, v] of expected.entries()) expect(run.activations[0]?.data[i]).toBeCloseTo(v, 5);
    expect(run.gradients[1]?.data.some((g) => g !== 0)).toBe(true);
    // The variables are back in place.
    expect(model.getWeights()[0]?.dataSync()).toEqual(initParams(run.fn.params, 1)['m.conv.kernel']?.data);
  });

  it('leave the last softmax out, since the loss takes logits', async () => {
    const [out] = wrapLayersModel(convnet(), { weights: 'current' }).slice(-1);
    const run = await runModule(out?.module as never, [wave([2, 5])]);
    const sums = [0, 1].map((r) =>
      [...(run.activations[0]?.data ?? [])].slice(4 * r, 4 * r + 4).reduce((a, b) => a + b, 0),
    );
    expect(sums.some((s) => Math.abs(s - 1) > 1e-3)).toBe(true);
  });

  it('start from the seed with the distributions of their initialisers', () => {
    const layers = wrapLayersModel(
      tfl.sequential({ layers: [tfl.layers.dense({ units: 300, inputShape: [200], kernelInitializer: 'heNormal' })] }),
    );
    const specs = Object.entries(layers[0]?.module.params ?? {}).map(([path, spec]) => ({ path, spec }));
    const first = initParams(specs, 3);
    expect(initParams(specs, 3)).toEqual(first);
    const kernel = first.kernel?.data as Float32Array;
    const std = Math.sqrt(kernel.reduce((s, v) => s + v * v, 0) / kernel.length);
    expect(std).toBeCloseTo(0.88 * Math.sqrt(2 / 200), 2);
  });

  it('map dropout and batch normalisation to ours', async () => {
    const model = tfl.sequential({
      layers: [tfl.layers.batchNormalization({ inputShape: [3], momentum: 0.8 }), tfl.layers.dropout({ rate: 0.5 })],
    });
    const [norm, drop] = wrapLayersModel(model);
    expect(norm?.module.kind).toBe('batchNorm');
    expect(Object.keys(norm?.module.state ?? {})).toEqual(['mean', 'variance']);
    expect(drop?.module.kind).toBe('dropout');
  });

  it('have the same paths however often they are built', () => {
    const names = () =>
      wrapLayersModel(
        tfl.sequential({
          layers: [tfl.layers.dense({ units: 2, inputShape: [3] }), tfl.layers.dense({ units: 2 }), tfl.layers.reLU()],
        }),
      ).map((l) => l.name);
    expect(names()).toEqual(['dense_1', 'dense_2', 're_lu_1']);
    expect(names()).toEqual(names());
  });

  it('may be graphs', async () => {
    const input = tfl.input({ shape: [4] });
    const left = tfl.layers.dense({ units: 3, name: 'left' }).apply(input) as tfl.SymbolicTensor;
    const right = tfl.layers.dense({ units: 3, name: 'right' }).apply(input) as tfl.SymbolicTensor;
    const model = tfl.model({
      inputs: input,
      outputs: tfl.layers.add({ name: 'sum' }).apply([left, right]) as tfl.SymbolicTensor,
    });
    const layers = wrapLayersModel(model, { weights: 'current' });
    expect(layers.map((l) => l.name)).toEqual(['graph']);
    const x = wave([2, 4]);
    const run = await runModule(layers[0]?.module as never, [x]);
    const expected = (model.predict(tf.tensor(x.data as Float32Array, [2, 4])) as tf.Tensor).dataSync();
    for (const [i, v] of expected.entries()) expect(run.activations[0]?.data[i]).toBeCloseTo(v, 5);
  });

  it('refuse what cannot be reproduced', () => {
    const wrap = (layer: tfl.layers.Layer) => () => wrapLayersModel(tfl.sequential({ layers: [layer] }));
    expect(wrap(tfl.layers.gaussianNoise({ stddev: 1, inputShape: [3] }))).toThrow(
      /\(GaussianNoise\) cannot be wrapped: it draws random numbers/,
    );
    expect(wrap(tfl.layers.lstm({ units: 2, inputShape: [4, 3], dropout: 0.2 }))).toThrow(
      /dropout inside recurrent layers/,
    );
    expect(wrap(tfl.layers.dense({ units: 2, inputShape: [3], trainable: false }))).toThrow(/not trainable/);
  });

  it('are read from model.json, and built by user files', async () => {
    const model = convnet();
    let weights = new ArrayBuffer(0);
    await model.save(
      tf.io.withSaveHandler(async (artifacts) => {
        weights = artifacts.weightData as ArrayBuffer;
        const json = {
          modelTopology: artifacts.modelTopology,
          weightsManifest: [{ paths: ['w.bin'], weights: artifacts.weightSpecs }],
        };
        await writeFile(join(dir, 'model.json'), JSON.stringify(json));
        await writeFile(join(dir, 'w.bin'), new Uint8Array(weights));
        return { modelArtifactsInfo: { dateSaved: new Date(0), modelTopologyType: 'JSON' } };
      }),
    );
    const info: TaskInfo = {
      inputs: [{ dtype: 'float32', shape: [6, 6, 2] }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes: 4,
    };
    const config = await prepareModel(
      { name: 'tfjs-layers', args: { path: 'model.json' } },
      { baseDir: dir, outDir: dir },
    );
    const { model: loaded } = await buildModel(config, info);
    const params = initParams(modelParams(loaded), 1);
    expect(params['conv.kernel']?.data).toEqual(model.getWeights()[0]?.dataSync());
    modelFunctions(loaded, info, 2, 'train');
    await writeFile(
      join(dir, 'layers.ts'),
      `import * as tfl from '@tensorflow/tfjs-layers';
       import { nn, wrapLayersModel } from 'plexus/modules';
       export const model = () => ({ layers: wrapLayersModel(tfl.sequential({ layers: [tfl.layers.flatten({ inputShape: [6, 6, 2] }), tfl.layers.dense({ units: 4 })] })), loss: nn.crossEntropy() });`,
    );
    const file = await prepareModel({ file: 'layers.ts', args: {} }, { baseDir: dir, outDir: dir });
    expect(file).toMatchObject({ usesLayers: true });
    expect((await layersOf(file, info)).at(-1)?.layout.metrics.map((m) => m.name)).toEqual(['loss', 'accuracy']);
    await expect(buildModel({ name: 'tfjs-layers', args: { path: join(dir, 'none.json') } }, info)).rejects.toThrow(
      /none.json cannot be read/,
    );
  });
});
