import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { Signature } from '../../src/engine/index.ts';
import { createEngine } from '../../src/engine/index.ts';
import type { Context, LayerFunction, Module } from '../../src/modules/index.ts';
import { evaluationKey, layerFunction, nn } from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, int32 } from '../../src/tensor/index.ts';
import type { Values } from '../modules/eager.ts';
import { runModule } from '../modules/eager.ts';
import { compileLayer, runPhases } from '../modules/phased.ts';

interface Stored {
  readonly shape: number[];
  readonly data: number[];
}

/** See make_golden.py. */
interface GoldenCase {
  readonly name: string;
  readonly options: Record<string, never>;
  readonly params: Record<string, Stored>;
  readonly inputs: Stored[];
  readonly outputs: Stored[];
  readonly cotangents: Stored[];
  readonly paramGradients: Record<string, Stored>;
  readonly inputGradients: (Stored | null)[];
  readonly state?: Record<string, Stored>;
  readonly newState?: Record<string, Stored>;
}

const modules: Readonly<Record<string, (o: Record<string, never>) => Module>> = {
  linear: (o) => nn.linear(o.in, o.out),
  embedding: (o) => nn.embedding(o.size, o.dim),
  mlp: (o) => nn.mlp(o.dim, o.hidden, { activation: o.activation }),
  swiglu: (o) => nn.swiglu(o.dim, o.hidden),
  layerNorm: (o) => nn.layerNorm(o.dim, o),
  rmsNorm: (o) => nn.rmsNorm(o.dim, o),
  attention: (o) => nn.attention(o as unknown as nn.AttentionOptions),
  conv2d: (o) => nn.conv2d(o.in, o.out, o),
  conv1d: (o) => nn.conv1d(o.in, o.out, o),
  depthwiseConv2d: (o) => nn.depthwiseConv2d(o.in, o),
  separableConv2d: (o) => nn.separableConv2d(o.in, o.out, o),
  maxPool2d: () => nn.maxPool2d(),
  avgPool2d: () => nn.avgPool2d(),
  globalAvgPool: () => nn.globalAvgPool(),
  batchNorm: (o) => nn.batchNorm(o.channels),
  lstm: (o) => nn.lstm(o.in, o.hidden),
  gru: (o) => nn.gru(o.in, o.hidden),
  crossEntropy: () => nn.crossEntropy(),
  meanSquaredError: () => nn.meanSquaredError(),
  router: (o) => routerProbe(o as unknown as nn.RouterOptions & { chosen: number[] }),
};

/** Gates, balance loss and z-loss of given logits. */
function routerProbe(options: nn.RouterOptions & { readonly chosen: readonly number[] }): Module {
  return {
    kind: 'routerProbe',
    forward(_params, [logits], _ctx: Context) {
      const routing = nn.route(logits as never, null, options);
      return [routing.gates, nn.balanceLoss(routing, options.scores ?? 'softmax'), nn.routerZLoss(logits as never)];
    },
  };
}

const families = ['linear', 'norm', 'attention', 'conv', 'batch-norm', 'recurrent', 'loss', 'router'];

for (const family of families) {
  const cases = JSON.parse(readFileSync(new URL(`./${family}.json`, import.meta.url), 'utf8')) as GoldenCase[];
  for (const [i, c] of cases.entries())
    describe(`${family} ${i}: ${c.name} ${JSON.stringify(c.options)}`, () => {
      it('agrees with PyTorch in tfjs', () => checkEager(c));
      it('agrees with PyTorch in ONNX Runtime', () => checkCompiled(c));
    });
}

const engine = createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
afterAll(async () => (await engine).dispose());

function moduleOf(c: GoldenCase): Module {
  return (modules[c.name] as (o: Record<string, never>) => Module)(c.options);
}

function inputsOf(c: GoldenCase): HostTensor[] {
  return c.inputs.map((t, i) => (c.inputGradients[i] === null ? int32(t.data, t.shape) : float32(t.data, t.shape)));
}

const isTraining = (c: GoldenCase) => (c.options.training as boolean | undefined) ?? true;

async function checkEager(c: GoldenCase): Promise<void> {
  // tfjs itself has no gradient of a dilated convolution; the engine adds one.
  const gradients = ((c.options.dilation as number | undefined) ?? 1) === 1;
  const run = await runModule(moduleOf(c), inputsOf(c), {
    training: isTraining(c),
    params: placed(c.params),
    state: placed(c.state ?? {}),
    cotangents: c.cotangents.map((t) => float32(t.data, t.shape)),
    gradients,
  });
  compare(c, run.fn, run.activations, gradients ? run.gradients : null, run.contributions);
}

async function checkCompiled(c: GoldenCase): Promise<void> {
  const inputs = inputsOf(c);
  const signature = inputs.map((t): Signature => ({ dtype: t.dtype as Signature['dtype'], shape: t.shape }));
  const fn = layerFunction({ name: 'm', module: moduleOf(c) }, signature, { training: isTraining(c) });
  const given = { ...placed(c.params), ...placed(c.state ?? {}) };
  const own = [...fn.params, ...fn.state].map(({ path }) => given[path] as HostTensor);
  const cotangents = c.cotangents.map((t) => float32(t.data, t.shape));
  const phased = await compileLayer(await engine, fn);
  const run = await runPhases(await engine, fn, phased, [...own, evaluationKey(), ...inputs], cotangents);
  const values = run.outputs as readonly Values[];
  const at = fn.layout.objective + 1 + fn.layout.metrics.length;
  const contributions = Object.fromEntries(fn.layout.contributions.map((path, i) => [path, values[at + i] as Values]));
  compare(c, fn, values, run.gradients as readonly (Values | null)[], contributions);
}

function compare(
  c: GoldenCase,
  fn: LayerFunction,
  outputs: readonly Values[],
  gradients: readonly (Values | null)[] | null,
  contributions: Readonly<Record<string, Values>>,
): void {
  expect(fn.params.map(({ path }) => path)).toEqual(Object.keys(placed(c.params)).sort());
  for (const [i, expected] of c.outputs.entries()) close(outputs[i] as Values, expected, `output ${i}`);
  for (const [name, expected] of Object.entries(c.newState ?? {})) {
    const before = (c.state as Record<string, Stored>)[name] as Stored;
    const contribution = contributions[`m.${name}`] as Values;
    const after = before.data.map((v, i) => 0.9 * v + 0.1 * (contribution.data[i] as number));
    close({ shape: contribution.shape, data: Float32Array.from(after) }, expected, `new ${name}`);
  }
  if (!gradients) return;
  for (const [i, { path }] of fn.params.entries())
    close(gradients[i] as Values, c.paramGradients[path.slice(2)] as Stored, `gradient of ${path}`);
  const first = fn.params.length + fn.state.length + 1;
  for (const [i, expected] of c.inputGradients.entries())
    if (expected) close(gradients[first + i] as Values, expected, `gradient of input ${i}`);
}

function placed(tensors: Readonly<Record<string, Stored>>): Record<string, HostTensor> {
  return Object.fromEntries(Object.entries(tensors).map(([path, t]) => [`m.${path}`, float32(t.data, t.shape)]));
}

/** Equal within 1e-5 of the largest expected magnitude (at least 1). */
function close(actual: Values, expected: Stored, what: string): void {
  expect(actual.shape, what).toEqual(expected.shape);
  const scale = Math.max(1, ...expected.data.map(Math.abs));
  const worst = expected.data.reduce((max, v, i) => Math.max(max, Math.abs(v - (actual.data[i] as number))), 0);
  expect(worst / scale, `${what}: largest difference`).toBeLessThan(1e-5);
}
