// What interpreting a program layer by layer costs: the step of one worker against the same model compiled into a single
// executable of forward and backward. Both in this thread, in turns.
//   npm run bench -- scaling/worker [--layers=6] [--rounds=5]
import type { Tensor } from '@tensorflow/tfjs-core';
import {
  buildModel,
  buildOptimizer,
  createEngine,
  createRanks,
  type DeviceTensor,
  type Engine,
  initParams,
  type LayerFunction,
  layerKey,
  modelFunctions,
  openDataset,
  orderOf,
  type PreparedRun,
  type Program,
  prepareQuietly,
  type ResolvedModel,
  resolveConfig,
  type Signature,
  tf,
  type WorkerJob,
} from '../../src/index.ts';
import { timing, timingText } from '../engine/stats.ts';
import { flag, printHeading } from './table.ts';

const config = resolveConfig({
  seed: 1,
  model: { name: 'transformer-lm', args: { layers: flag('layers', 6), dim: 256, heads: 4 } },
  data: { name: 'moby-dick', context: 128, tokenizer: { kind: 'char' }, validation: 0.005 },
  batch: { global: 8, micro: 8 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  engine: { threads: 1 },
});

function jobOf({ data, engine, plan }: PreparedRun): WorkerJob {
  return {
    runId: 'bench',
    rank: 0,
    seed: config.seed,
    model: config.model as ResolvedModel,
    optim: config.optim,
    totalSteps: 1000,
    data,
    engine,
    batch: config.batch,
    numerics: 'exact',
    remat: 'none',
    train: plan.programs[0] as Program,
    evaluate: plan.evaluate[0] as Program,
    deadlineMs: 60_000,
    checkpoint: null,
    trace: false,
  };
}

/** All layers as one function of (all parameters, all keys, inputs, targets); the objective is its only output. */
function composed(layers: readonly LayerFunction[], inputs: number) {
  return (...all: Tensor[]): Tensor => {
    let params = 0;
    let keys = layers.reduce((sum, layer) => sum + layer.params.length, 0);
    let activations = all.slice(keys + layers.length, keys + layers.length + inputs);
    const targets = all.slice(keys + layers.length + inputs);
    let objective: Tensor | null = null;
    for (const [i, layer] of layers.entries()) {
      const own = all.slice(params, params + layer.params.length);
      params += own.length;
      const given = [...own, all[keys++] as Tensor, ...activations, ...(i === layers.length - 1 ? targets : [])];
      const outputs = layer.fn(...given) as readonly Tensor[];
      activations = outputs.slice(0, layer.layout.objective);
      const part = outputs[layer.layout.objective] as Tensor;
      objective = objective ? tf.add(objective, part) : part;
    }
    return objective as Tensor;
  };
}

/** A step in one executable, and one for the update: what PyTorch users would call the compiled step. */
async function wholeStep(engine: Engine, prepared: PreparedRun): Promise<(step: number) => Promise<number>> {
  const dataset = openDataset(prepared.data);
  const { model } = await buildModel(config.model as ResolvedModel, dataset.info);
  const layers = modelFunctions(model, dataset.info, config.batch.micro, 'train');
  const specs = layers.flatMap((layer) => layer.params);
  const own = specs.map(({ spec }): Signature => ({ dtype: 'float32', shape: spec.shape }));
  const split = dataset.split('train');
  const order = orderOf({ seed: config.seed, examples: split.examples, ...config.batch });
  const example = split.batch(order.indices(0, 0));
  const signatureOf = ({ dtype, shape }: { dtype: string; shape: readonly number[] }) =>
    ({ dtype, shape }) as Signature;
  const signature = [
    ...own,
    ...layers.map((): Signature => ({ dtype: 'int32', shape: [2] })),
    ...example.inputs.map(signatureOf),
    ...example.targets.map(signatureOf),
  ];
  const phased = await engine.vjp(composed(layers, example.inputs.length), signature, {
    wrt: signature.map((_, i) => i < own.length),
    differentiable: [true],
    fused: true,
  });
  const [phase] = phased.phases;
  if (!phase || phased.phases.length > 1) throw new Error('the step is not one executable');
  const { lr } = config.optim;
  const update = await engine.compile(
    (...all) => own.map((_, i) => tf.sub(all[i] as Tensor, tf.mul(all[own.length + i] as Tensor, lr))),
    [...own, ...own],
  );
  const initial = initParams(specs, config.seed);
  let params = specs.map(({ path }) => engine.upload(initial[path] as (typeof initial)[string]));
  let spare: DeviceTensor[] | undefined;
  let outputs: DeviceTensor[] | undefined;
  const seed = engine.upload({ dtype: 'float32', shape: [], data: Float32Array.of(1) });
  return async (step) => {
    const batch = split.batch(order.indices(step, 0));
    const keys = layers.map((layer) => engine.upload(layerKey(config.seed, step, 0, layer.name)));
    const values = [...params, ...keys, ...[...batch.inputs, ...batch.targets].map((tensor) => engine.upload(tensor))];
    const slots = new Map(phased.inputs.map((slot, i) => [slot, values[i] as DeviceTensor]));
    const cotangent = phased.cotangents[0];
    if (typeof cotangent === 'number') slots.set(cotangent, seed);
    outputs = await phase.executable.run(
      phase.reads.map((slot) => slots.get(slot) as DeviceTensor),
      outputs,
    );
    phase.writes.forEach((slot, i) => {
      slots.set(slot, (outputs as DeviceTensor[])[i] as DeviceTensor);
    });
    const gradients = phased.gradients.slice(0, own.length).map((slot) => slots.get(slot as number) as DeviceTensor);
    const next = await update.run([...params, ...gradients], spare);
    spare = params;
    params = next;
    return Number(engine.host(slots.get(phased.outputs[0] as number) as DeviceTensor)?.data[0]);
  };
}

const prepared = await prepareQuietly(config);
const engine = await createEngine(prepared.engine);
const whole = await wholeStep(engine, prepared);
const optimizer = buildOptimizer(config.optim, { totalSteps: 1000 });
const { ranks, dispose } = await createRanks([jobOf(prepared)], { engine, optimizer });
const rank = ranks[0];
if (!rank) throw new Error('a job with one rank has a rank');

const samples = { whole: [] as number[], worker: [] as number[] };
let step = 0;
for (let round = 0; round < flag('rounds', 5) + 1; round++)
  for (let i = 0; i < 6; i++, step++) {
    const begin = performance.now();
    const loss = await whole(step);
    const middle = performance.now();
    const report = await rank.step(step);
    const end = performance.now();
    const own = Number(report.metrics.loss?.[0]?.[1]);
    if (Math.abs(own - loss) > 1e-4 * loss) throw new Error(`step ${step}: losses ${loss} and ${own} are far apart`);
    if (round === 0) continue;
    samples.whole.push(middle - begin);
    samples.worker.push(end - middle);
  }
await dispose();
await engine.dispose();
const [one, layered] = [timing(samples.whole), timing(samples.worker)];
printHeading(`worker: ${flag('layers', 6)} blocks, d = 256, 8 x 128 tokens, SGD, one thread`);
console.log(`one executable and an update     ${timingText(one)}`);
console.log(`a worker, layer by layer         ${timingText(layered)}`);
const gap = (a: number, b: number): string => `${((a / b - 1) * 100).toFixed(1)} %`;
console.log(
  `  gap ${gap(layered.median, one.median)} (of the quickest steps ${gap(layered.min, one.min)})  target < 15 %: ${layered.median / one.median < 1.15 ? 'met' : 'NOT met'}`,
);
