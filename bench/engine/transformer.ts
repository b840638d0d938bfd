// Training step (forward, backward, SGD) of a 6-layer transformer, d = 256, 8 x 128 tokens, one thread: as one
// executable and layer by layer, against tfjs-wasm eager (the same tfjs code) and PyTorch eager, in the same run.
//   node bench/run.mjs engine/transformer [--layers=6] [--rounds=3] [--no-wasm] [--profile]
// PyTorch is looked for in PLEXUS_PYTHON, or as `python3`.
import type { Tensor } from '@tensorflow/tfjs-core';
import {
  createOnnxEngine,
  type DeviceTensor,
  type OnnxEngine,
  type PhasedFunction,
  type Signature,
  tf,
} from '../../src/engine/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import * as model from './model.ts';
import { pytorch } from './pytorch.ts';
import { type Timing, timing, timingText } from './stats.ts';

const flag = (name: string, otherwise: number): number =>
  Number(process.argv.find((arg) => arg.startsWith(`--${name}=`))?.split('=')[1] ?? otherwise);
const sizes = { ...model.ISSUE, layers: flag('layers', 6) };
const rounds = flag('rounds', 3);
const rate = 0.1;
const tokensShape = [sizes.batch * sizes.time];
const ids: Signature = { dtype: 'int32', shape: tokensShape };
const activation: Signature = { dtype: 'float32', shape: [sizes.batch * sizes.time, sizes.width] };
const allParts = model.parts(sizes);
const values = model.initialValues(sizes);

/** One training step; returns the loss. */
type Step = () => Promise<number>;

function sgd(engine: OnnxEngine, params: readonly Signature[]) {
  const n = params.length;
  return engine.compile(
    (...all) => params.map((_, i) => tf.sub(all[i] as Tensor, tf.mul(all[n + i] as Tensor, rate))),
    [...params, ...params],
    {
      name: 'sgd',
    },
  );
}

const uploadAll = (engine: OnnxEngine) => {
  const specs = allParts.flatMap(model.paramSignature);
  return values.params.map((data, i) =>
    engine.upload({ dtype: 'float32', shape: (specs[i] as Signature).shape, data: data.slice() }),
  );
};
const lossOf = (engine: OnnxEngine, loss: DeviceTensor): number => (engine.host(loss) as HostTensor).data[0] as number;
const scalarOne = (engine: OnnxEngine) => engine.upload({ dtype: 'float32', shape: [], data: Float32Array.of(1) });
const idTensor = (engine: OnnxEngine, data: Int32Array) => engine.upload({ dtype: 'int32', shape: tokensShape, data });

/** Forward and backward of the whole model in one executable, and one for SGD. */
async function oneExecutable(engine: OnnxEngine): Promise<{ step: Step; flops: number }> {
  const specs = allParts.flatMap(model.paramSignature);
  const signature = [...specs, ids, ids];
  const phased = await engine.vjp((...all) => model.lossOf(sizes, all), signature, {
    wrt: signature.map(({ dtype }) => dtype === 'float32'),
    differentiable: [true],
    fused: true,
    name: 'transformer',
  });
  const [phase] = phased.phases as [PhasedFunction['phases'][0]];
  const update = await sgd(engine, specs);
  let params: DeviceTensor[] = uploadAll(engine);
  let spare: DeviceTensor[] | undefined;
  let outputs: DeviceTensor[] | undefined;
  const [tokens, targets, seed] = [
    idTensor(engine, values.tokens),
    idTensor(engine, values.targets),
    scalarOne(engine),
  ];
  const step = async (): Promise<number> => {
    const slots = new Map(phased.inputs.map((id, i) => [id, [...params, tokens, targets][i] as DeviceTensor]));
    slots.set(phased.cotangents[0] as number, seed);
    outputs = await phase.executable.run(
      phase.reads.map((id) => slots.get(id) as DeviceTensor),
      outputs,
    );
    phase.writes.forEach((id, i) => {
      slots.set(id, (outputs as DeviceTensor[])[i] as DeviceTensor);
    });
    const gradients = phased.gradients.slice(0, specs.length).map((id) => slots.get(id as number) as DeviceTensor);
    const next = await update.run([...params, ...gradients], spare);
    spare = params;
    params = next;
    return lossOf(engine, slots.get(phased.outputs[0] as number) as DeviceTensor);
  };
  return { step, flops: phase.executable.flops };
}

interface Layer {
  readonly specs: readonly Signature[];
  readonly phased: PhasedFunction;
  readonly update: Awaited<ReturnType<typeof sgd>>;
  params: DeviceTensor[];
  spare?: DeviceTensor[];
  /** Outputs of each phase, written again every step. */
  readonly buffers: (DeviceTensor[] | undefined)[];
}

/** Each layer's phases, as workers run them; the last layer is fused with the loss. */
async function layered(engine: OnnxEngine): Promise<Step> {
  const parameters = uploadAll(engine);
  const layers: Layer[] = [];
  for (const [i, part] of allParts.entries()) {
    const specs = model.paramSignature(part);
    const [first, last] = [i === 0, i === allParts.length - 1];
    const signature = [...specs, ...(first ? [ids] : [activation]), ...(last ? [ids] : [])];
    const fn = (...all: Tensor[]): Tensor => {
      const params = all.slice(0, specs.length);
      const x = all[specs.length] as Tensor;
      if (first) return model.embed(sizes, params, x);
      return last ? model.runHead(params, x, all.at(-1) as Tensor) : model.runBlock(sizes, params, x);
    };
    const phased = await engine.vjp(fn, signature, {
      wrt: signature.map(({ dtype }) => dtype === 'float32'),
      differentiable: [true],
      fused: last,
      name: `layer ${i}`,
    });
    layers.push({
      specs,
      phased,
      update: await sgd(engine, specs),
      params: parameters.splice(0, specs.length),
      buffers: [],
    });
  }
  const [tokens, targets, seed] = [
    idTensor(engine, values.tokens),
    idTensor(engine, values.targets),
    scalarOne(engine),
  ];
  const run = async ({ phased, buffers }: Layer, slots: Map<number, DeviceTensor>, kind: string): Promise<void> => {
    for (const [i, phase] of phased.phases.entries()) {
      if (phase.kind !== kind) continue;
      const outputs = await phase.executable.run(
        phase.reads.map((id) => slots.get(id) as DeviceTensor),
        buffers[i],
      );
      buffers[i] = outputs;
      phase.writes.forEach((id, k) => {
        slots.set(id, outputs[k] as DeviceTensor);
      });
    }
  };
  return async () => {
    const environments = layers.map(() => new Map<number, DeviceTensor>());
    let x = tokens;
    for (const [i, layer] of layers.entries()) {
      const slots = environments[i] as Map<number, DeviceTensor>;
      const inputs = [...layer.params, x, ...(i === layers.length - 1 ? [targets] : [])];
      layer.phased.inputs.forEach((id, k) => {
        slots.set(id, inputs[k] as DeviceTensor);
      });
      if (i === layers.length - 1) slots.set(layer.phased.cotangents[0] as number, seed);
      await run(layer, slots, 'forward');
      x = slots.get(layer.phased.outputs[0] as number) as DeviceTensor;
    }
    const loss = lossOf(engine, x);
    let cotangent: DeviceTensor | undefined;
    for (const [i, layer] of [...layers.entries()].reverse()) {
      const slots = environments[i] as Map<number, DeviceTensor>;
      if (cotangent) {
        slots.set(layer.phased.cotangents[0] as number, cotangent);
        await run(layer, slots, 'backward');
      }
      const gradients = layer.phased.gradients.map((id) => (id === null ? undefined : slots.get(id)));
      cotangent = gradients[layer.specs.length];
      const next = await layer.update.run(
        [...layer.params, ...(gradients.slice(0, layer.specs.length) as DeviceTensor[])],
        layer.spare,
      );
      layer.spare = layer.params;
      layer.params = next;
    }
    return loss;
  };
}

/** Kernels of the model that tfjs-wasm lacks, composed of those that it has. */
function fillWasmGaps(): void {
  const gaps: Record<string, (inputs: Record<string, Tensor>, attrs: Record<string, unknown>) => Tensor> = {
    UnsortedSegmentSum: ({ x, segmentIds }, { numSegments }) =>
      tf.matMul(tf.oneHot(segmentIds as never, numSegments as number, 1, 0, 'float32'), x as Tensor, true),
    // Abramowitz and Stegun 7.1.26.
    Erf: ({ x }) => {
      const t = tf.div(1, tf.add(1, tf.mul(0.3275911, tf.abs(x as Tensor))));
      const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592].reduce<Tensor>(
        (sum, a) => tf.mul(t, tf.add(sum, a)),
        tf.zerosLike(t),
      );
      return tf.mul(tf.sign(x as Tensor), tf.sub(1, tf.mul(series, tf.exp(tf.neg(tf.square(x as Tensor))))));
    },
    Sign: ({ x }) =>
      tf.sub(tf.cast(tf.greater(x as Tensor, 0), 'float32'), tf.cast(tf.less(x as Tensor, 0), 'float32')),
  };
  for (const [kernelName, compute] of Object.entries(gaps))
    if (!tf.getKernel(kernelName, 'wasm'))
      tf.registerKernel({
        kernelName,
        backendName: 'wasm',
        kernelFunc: ({ inputs, attrs }) => tf.tidy(() => compute(inputs as never, attrs as never)),
      });
}

/** The same functions, run op by op on tfjs's WebAssembly backend. */
async function wasm(): Promise<Step | string> {
  try {
    await import('@tensorflow/tfjs-backend-wasm');
    if (!(await tf.setBackend('wasm'))) return 'tfjs-wasm did not start';
    await tf.ready();
    fillWasmGaps();
    const specs = allParts.flatMap(model.paramSignature);
    const variables = values.params.map((data, i) => tf.variable(tf.tensor(data, [...(specs[i] as Signature).shape])));
    const tokens = tf.tensor1d(values.tokens, 'int32');
    const targets = tf.tensor1d(values.targets, 'int32');
    return async () => {
      const { value, grads } = tf.variableGrads(
        () => model.lossOf(sizes, [...variables, tokens, targets]) as never,
        variables,
      );
      for (const variable of variables) {
        const gradient = grads[variable.name] as Tensor;
        const next = tf.tidy(() => tf.sub(variable, tf.mul(gradient, rate)));
        variable.assign(next as never);
        tf.dispose([next, gradient]);
      }
      const loss = value.dataSync()[0] as number;
      value.dispose();
      return loss;
    };
  } catch (error) {
    return `tfjs-wasm could not run: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Milliseconds of steps, after warming up. */
async function time(step: Step, runs: number, warm = 2): Promise<{ samples: number[]; losses: number[] }> {
  const samples: number[] = [];
  const losses: number[] = [];
  for (let i = 0; i < runs + warm; i++) {
    const begin = performance.now();
    losses.push(await step());
    if (i >= warm) samples.push(performance.now() - begin);
  }
  return { samples, losses };
}

function torch(form: 'plain' | 'sdpa', runs: number): { torch: string; ms: number[] } | string {
  const { layers, width, heads, vocabulary, batch, time: steps } = sizes;
  return pytorch('transformer.py', [layers, width, heads, vocabulary, batch, steps, runs, form]);
}

const engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
const whole = await oneExecutable(engine);
const byLayer = await layered(engine);
const samples = { whole: [] as number[], byLayer: [] as number[], plain: [] as number[], sdpa: [] as number[] };
let torchVersion = '';
let losses: number[] = [];
for (let round = 0; round < rounds; round++) {
  const one = await time(whole.step, 6);
  if (round === 0) losses = one.losses;
  samples.whole.push(...one.samples);
  const cut = await time(byLayer, 6);
  if (round === 0 && cut.losses.join() !== losses.join())
    console.log(`LOSSES DIFFER: one executable ${losses}, layer by layer ${cut.losses}`);
  samples.byLayer.push(...cut.samples);
  for (const form of ['plain', 'sdpa'] as const) {
    const result = torch(form, 5);
    if (typeof result === 'string') {
      if (round === 0) console.log(`no comparison with PyTorch: ${result}`);
      break;
    }
    torchVersion = result.torch;
    samples[form].push(...result.ms);
  }
}
const results: Record<string, Timing> = {};
const report = (name: string, times: readonly number[]): Timing => {
  const result = timing(times);
  results[name] = result;
  console.log(`${name.padEnd(44)} ${timingText(result)}  ${(whole.flops / result.median / 1e6).toFixed(0)} GFLOP/s`);
  return result;
};
console.log(
  `${sizes.layers} layers, d = ${sizes.width}, ${sizes.batch} x ${sizes.time} tokens, one thread, ${(whole.flops / 1e9).toFixed(1)} GFLOP a step; losses ${losses.slice(0, 3).map((loss) => loss.toFixed(5))}`,
);
const one = report('Plexus, one executable', samples.whole);
const cut = report('Plexus, layer by layer', samples.byLayer);
const ratio = (name: string, peer: number): void =>
  console.log(
    `  ratio to ${name}: one executable ${(peer / one.median).toFixed(2)}x, layer by layer ${(peer / cut.median).toFixed(2)}x`,
  );
if (samples.plain.length > 0)
  ratio('PyTorch', report(`PyTorch ${torchVersion} eager, plain attention`, samples.plain).median);
if (samples.sdpa.length > 0)
  ratio('PyTorch SDPA', report(`PyTorch ${torchVersion} eager, fused attention`, samples.sdpa).median);
await engine.dispose();
if (!process.argv.includes('--no-wasm')) {
  const step = await wasm();
  if (typeof step === 'string') console.log(step);
  else ratio('tfjs-wasm', report('tfjs-wasm eager', (await time(step, 2, 1)).samples).median);
}
