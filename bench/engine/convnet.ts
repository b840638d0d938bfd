// Training step (forward, backward, SGD with momentum) of convolutional networks on 64 images of 28 x 28, one thread: LeNet as in
// federated/niid, and the zoo's cnn, against PyTorch eager in the same run, in turns.
//   npm run bench -- engine/convnet [--rounds=3]
// PyTorch is looked for in PLEXUS_PYTHON, or as `python3`.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createOnnxEngine } from '../../src/engine/onnx/index.ts';
import {
  buildModel,
  buildOptimizer,
  float32,
  initParams,
  int32,
  LocalTrainer,
  layerKey,
  modelParams,
  objectiveNamed,
  optimSchema,
  prepareModel,
  type Split,
  vectorOf,
} from '../../src/index.ts';
import { flag, printHeading, printRatio } from '../scaling/table.ts';
import { pytorch } from './pytorch.ts';
import { timing, timingText } from './stats.ts';

const BATCH = 64;
const STEPS = 64;
const info = {
  ...{ kind: 'classification', classes: 10, inputs: [{ name: 'image', dtype: 'float32', shape: [28, 28, 1] }] },
  targets: [{ name: 'label', dtype: 'int32', shape: [] }],
} as const;

/** Images of noise: what they show does not matter to a clock. */
const noise = Float32Array.from({ length: BATCH * 784 }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 24);
const split: Split = {
  name: 'train',
  examples: BATCH,
  batch(places) {
    const images = new Float32Array(places.length * 784);
    places.forEach((place, i) => {
      images.set(noise.subarray(place * 784, (place + 1) * 784), i * 784);
    });
    const labels = places.map((place) => place % 10);
    return { inputs: [float32(images, [places.length, 28, 28, 1])], targets: [int32(labels, [places.length])] };
  },
};
const given = {
  ...{ split, first: 0 },
  batches: Array.from({ length: STEPS }, () => Int32Array.from({ length: BATCH }, (_, i) => i)),
  key: (step: number) => layerKey(0, step, 0, 'convnet'),
};

/** Makes a model whose `run` takes `STEPS` steps and returns the milliseconds of one. */
async function prepared(model: Parameters<typeof prepareModel>[0]) {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  const resolved = await prepareModel(model, { baseDir: process.cwd(), outDir: folder });
  const built = await buildModel(resolved, info as never);
  rmSync(folder, { recursive: true, force: true });
  const engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
  const optim = optimSchema.parse({ name: 'sgd', lr: 0.01, momentum: 0.9, weight_decay: 1e-5 });
  const optimizer = buildOptimizer(optim, { totalSteps: Number.MAX_SAFE_INTEGER });
  const parts = { engine, model: built.model, info: info as never };
  const trainer = new LocalTrainer({ ...parts, optimizer, objective: objectiveNamed('none', {}) });
  const vector = vectorOf(trainer.layout, initParams(modelParams(built.model), 0));
  const start = trainer.upload(vector, new Float32Array(trainer.stateLayout.size));
  return {
    run: async (): Promise<number> => {
      const began = performance.now();
      const { losses } = await trainer.train(start, given, new Map());
      const took = (performance.now() - began) / STEPS;
      if (!losses.every(Number.isFinite)) throw new Error('the loss is not finite');
      return took;
    },
    close: () => engine.dispose(),
  };
}

printHeading(`convolutional networks, ${BATCH} images of 28 x 28 a step, one thread`);
for (const { name, model } of [
  { name: 'lenet', model: { file: 'bench/federated/lenet.ts', args: {} } },
  { name: 'cnn', model: { name: 'cnn', args: {} } },
]) {
  const { run, close } = await prepared(model as never);
  await run();
  const [own, peer]: [number[], number[]] = [[], []];
  for (let round = 0; round < flag('rounds', 3); round++) {
    for (let i = 0; i < 3; i++) own.push(await run());
    const theirs = pytorch<number[]>('convnet.py', [name, STEPS]);
    if (typeof theirs === 'string') {
      console.log(`no comparison with PyTorch: ${theirs}`);
      break;
    }
    peer.push(...theirs);
  }
  await close();
  console.log(`${name.padEnd(8)} Plexus  ${timingText(timing(own))}`);
  if (peer.length === 0) continue;
  console.log(`${''.padEnd(8)} PyTorch ${timingText(timing(peer))}`);
  printRatio(`${name}, PyTorch / Plexus`, timing(peer).median / timing(own).median, 1);
}
