import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Context, Module } from '../../src/modules/index.ts';
import { nn } from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, int32 } from '../../src/tensor/index.ts';
import type { Values } from '../modules/eager.ts';
import { runModule } from '../modules/eager.ts';

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

describe('modules agree with PyTorch', () => {
  for (const family of families) {
    const cases = JSON.parse(readFileSync(new URL(`./${family}.json`, import.meta.url), 'utf8')) as GoldenCase[];
    cases.forEach((c, i) => {
      it(`${family} ${i}: ${c.name} ${JSON.stringify(c.options)}`, () => check(c));
    });
  }
});

async function check(c: GoldenCase): Promise<void> {
  const module = (modules[c.name] as (o: Record<string, never>) => Module)(c.options);
  // tfjs itself has no gradient of a dilated convolution; the engine adds one.
  const differentiable = ((c.options.dilation as number | undefined) ?? 1) === 1;
  const integers = new Set(c.inputGradients.flatMap((g, i) => (g === null ? [i] : [])));
  const run = await runModule(
    module,
    c.inputs.map((t, i) => (integers.has(i) ? int32(t.data, t.shape) : float32(t.data, t.shape))),
    {
      training: (c.options.training as boolean | undefined) ?? true,
      params: placed(c.params),
      state: placed(c.state ?? {}),
      cotangents: c.cotangents.map((t) => float32(t.data, t.shape)),
      gradients: differentiable,
    },
  );
  c.outputs.forEach((expected, i) => {
    close(run.activations[i] as Values, expected, `output ${i}`);
  });
  expect(run.fn.params.map(({ path }) => path)).toEqual(Object.keys(placed(c.params)).sort());
  if (!differentiable) return;
  run.fn.params.forEach(({ path }, i) => {
    close(run.gradients[i] as Values, c.paramGradients[path.slice(2)] as Stored, `gradient of ${path}`);
  });
  const first = run.fn.params.length + run.fn.state.length + 1;
  c.inputGradients.forEach((expected, i) => {
    if (expected) close(run.gradients[first + i] as Values, expected, `gradient of input ${i}`);
  });
  for (const [name, expected] of Object.entries(c.newState ?? {})) {
    const before = (c.state as Record<string, Stored>)[name] as Stored;
    const contribution = run.contributions[`m.${name}`] as Values;
    const after = before.data.map((v, i) => 0.9 * v + 0.1 * (contribution.data[i] as number));
    close({ shape: contribution.shape, data: Float32Array.from(after) }, expected, `new ${name}`);
  }
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
