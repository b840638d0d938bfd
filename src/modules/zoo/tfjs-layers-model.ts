import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import type * as tfl from '@tensorflow/tfjs-layers';
import * as z from 'zod';
import { crossEntropy } from '../nn/loss.ts';
import { zooEntry } from './entry.ts';
import { outputOf } from './mlp.ts';
import { wrapLayersModel } from './tfjs-layers.ts';
import { loadTfjsLayers, withHostBackend } from './tfjs-runtime.ts';

const schema = z.strictObject({
  path: z.string().describe('A tfjs model.json, as `model.save` writes it (with or without weights)'),
  weights: z
    .enum(['initialise', 'current'])
    .default('current')
    .describe("Start from the file's weights, or draw new ones"),
});

/** A tfjs LayersModel from a `model.json`. */
export const tfjsLayersModel = zooEntry({
  name: 'tfjs-layers',
  summary: 'a TensorFlow.js LayersModel from its model.json',
  schema,
  async build(args, info) {
    const tfjs = await loadTfjsLayers();
    const loss =
      info.vocabSize === undefined ? outputOf('tfjs-layers', info).loss : crossEntropy({ accuracy: 'evaluation' });
    const layers = await withHostBackend(async () => {
      const { model, hasWeights } = await loadLayersModel(tfjs, args.path);
      return wrapLayersModel(model, { weights: hasWeights ? args.weights : 'initialise' });
    });
    return { model: { layers, loss }, warnings: [] };
  },
});

async function loadLayersModel(
  tfjs: typeof tfl,
  path: string,
): Promise<{ model: tfl.LayersModel; hasWeights: boolean }> {
  const json = await readJson(path);
  if (!json.modelTopology) throw new Error(`${path} is not a tfjs layers model: it has no modelTopology`);
  const manifest = json.weightsManifest ?? [];
  const shards: Buffer[] = [];
  for (const file of manifest.flatMap((group) => group.paths))
    shards.push(
      await readFile(join(dirname(path), file)).catch((cause: unknown) => {
        throw new Error(`${path} names the weight file ${file}, which cannot be read`, { cause });
      }),
    );
  const bytes = Buffer.concat(shards);
  const weightData = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
  const hasWeights = manifest.length > 0;
  const artifacts = {
    modelTopology: json.modelTopology as object,
    ...(hasWeights ? { weightSpecs: manifest.flatMap((group) => group.weights), weightData } : {}),
  };
  try {
    return { model: await tfjs.loadLayersModel(tf.io.fromMemory(artifacts)), hasWeights };
  } catch (error) {
    throw new Error(`${path} could not be loaded by tfjs: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}

interface ModelJson {
  readonly modelTopology?: unknown;
  readonly weightsManifest?: readonly { readonly paths: string[]; readonly weights: tf.io.WeightsManifestEntry[] }[];
}

async function readJson(path: string): Promise<ModelJson> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as ModelJson;
  } catch (error) {
    throw new Error(`the tfjs model ${path} cannot be read: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}
