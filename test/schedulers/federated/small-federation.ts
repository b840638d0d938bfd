import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dataSchema, openDataset, type PreparedData, prepareData } from '../../../src/data/index.ts';
import {
  buildModel,
  initParams,
  initState,
  type ModelConfig,
  modelParams,
  modelState,
} from '../../../src/modules/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  type ClientFit,
  ClientFitter,
  clientBatches,
  type FitJob,
  federatedStrategies,
  type KeptVectors,
  setAside,
} from '../../../src/schedulers/federated/index.ts';
import { type VectorLayout, vectorLayout, vectorOf } from '../../../src/schedulers/local/index.ts';

/** Sizes of the network that references compute by hand: tanh between two linear layers, classes by cross-entropy. */
export const [FEATURES, HIDDEN, CLASSES, ROWS] = [5, 4, 3, 40];
export const LR = 0.2;
const SEED = 3;
export const MODEL = { name: 'mlp', args: { hidden: [HIDDEN], activation: 'tanh' } };

/** Writes a table of rows whose class goes, more or less, by their features. */
export function writeTable(dir: string): string {
  const lines = Array.from({ length: ROWS }, (_, row) => {
    const values = Array.from({ length: FEATURES }, (__, i) => Math.sin(row * 1.7 + i * 2.3 + row * i).toFixed(4));
    return [...values, 'abc'[(row * 7 + (Number(values[0]) > 0 ? 1 : 0)) % CLASSES]].join(',');
  });
  const path = join(dir, 'rows.csv');
  writeFileSync(path, [['f0', 'f1', 'f2', 'f3', 'f4', 'kind'].join(','), ...lines, ''].join('\n'));
  return path;
}

/** What references compute with: the network by hand, in float64, gradients by central differences. */
export interface Reference {
  readonly layout: VectorLayout;
  readonly initial: Float64Array;
  readonly x: (example: number) => Float32Array;
  readonly y: (example: number) => number;
  forward(w: ArrayLike<number>, example: number): { readonly features: number[]; readonly logits: number[] };
  /** Mean cross-entropy. */
  loss(w: ArrayLike<number>, examples: ArrayLike<number>): number;
  /** Batches of a client's pass. */
  batches(round: number, client: number, options?: { pass?: string; epochs?: number; over?: Int32Array }): Int32Array[];
  /** Whether each parameter is one of the last layer. */
  readonly head: readonly boolean[];
}

/** Rounds of a strategy with the fits as threads make them, and the reference beside it. */
export interface SmallFederation {
  readonly reference: Reference;
  readonly examples: readonly Int32Array[];
  readonly shared: Int32Array | null;
  /** Parameters and module state after the rounds, of which each asks the clients given; and each client's loss with its own model. */
  run(
    cohorts: readonly (readonly number[])[],
  ): Promise<{ params: Float32Array; state: Float32Array; own: number[]; vectors: KeptVectors }>;
}

/** What a small federation can have instead: another model, and other numbers of examples. */
export interface SmallOptions {
  readonly model?: ModelConfig;
  readonly sizes?: readonly number[];
}

export async function smallTable(dir: string): Promise<PreparedData> {
  return prepareData(dataSchema.parse({ name: 'csv', path: writeTable(dir), validation: 0.1 }));
}

/** A federation of three clients with 9, 6 and 8 examples (unless `sizes` has others), and batches of 4. */
export async function smallFederation(
  data: PreparedData,
  name: string,
  settings: object = {},
  { model: modelConfig = MODEL, sizes = [9, 6, 8] }: SmallOptions = {},
): Promise<SmallFederation> {
  const strategy = federatedStrategies().get(name);
  if (!strategy) throw new Error(`no strategy ${name}`);
  const config = strategy.config.parse(settings);
  const dataset = openDataset(data);
  const train = dataset.split('train');
  const { shared } = setAside({ examples: train.examples, labels: null }, strategy.sharedExamples?.(config) ?? 0, SEED);
  const rest = Array.from({ length: train.examples }, (_, i) => i).filter((i) => !shared?.includes(i));
  const examples = sizes.map((size) => Int32Array.from(rest.splice(0, size)));
  const { model } = await buildModel(modelConfig, dataset.info);
  const layout = vectorLayout(modelParams(model));
  const stateLayout = vectorLayout(modelState(model));
  const initial = vectorOf(layout, initParams(modelParams(model), 1));
  const job: FitJob = {
    seed: SEED,
    model: modelConfig,
    optim: optimSchema.parse({ name: 'sgd', lr: LR, momentum: 0 }),
    data,
    engine: { kind: 'onnx', device: 'cpu', threads: 1 },
    objective: strategy.objective?.(config) ?? { name: 'none', config: {} },
    batch: 4,
    shared,
  };
  const run: SmallFederation['run'] = async (cohorts) => {
    const server = strategy.server(config, {
      params: layout,
      state: stateLayout,
      clients: examples.length,
      seed: SEED,
      model: { model, info: dataset.info },
    });
    const fitter = await ClientFitter.create(job);
    const params = initial.slice();
    const state = vectorOf(stateLayout, initState(modelState(model), 1));
    const kept = new Map<number, KeptVectors>();
    const size = layout.size + stateLayout.size;
    let version = 0;
    const publish = () => ({
      version: ++version,
      params: sharedOf(params),
      state: sharedOf(state),
      round: Object.fromEntries(Object.entries(server.round?.() ?? {}).map(([key, v]) => [key, sharedOf(v)])),
    });
    for (const [round, cohort] of cohorts.entries()) {
      const fits = cohort.map((client): ClientFit => {
        const own = examples[client] as Int32Array;
        const steps = Math.ceil(own.length / 4);
        return {
          client,
          round,
          examples: own,
          epochs: 1,
          maxSteps: null,
          firstStep: 0,
          weight: server.weight?.({ examples: own.length, steps }) ?? own.length,
          clipNorm: null,
          kept: kept.get(client) ?? {},
        };
      });
      const into = new SharedArrayBuffer(4 * size * fits.length);
      const reports = await fitter.fit({ start: publish(), clients: fits, mode: 'each', into });
      const all = new Float32Array(into);
      const updates = reports.map((report, i) => {
        if (report.problem !== null) throw new Error(report.problem);
        return { report, update: all.slice(i * size, (i + 1) * size) };
      });
      const sum = new Float32Array(size);
      for (const { report, update } of updates)
        for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + report.weight * (update[i] as number);
      server.apply(
        {
          round,
          sum: server.needs === 'sum' ? sum : null,
          weight: reports.reduce((total, { weight }) => total + weight, 0),
          updates: server.needs === 'each' ? updates : [],
          reports,
          kept: (client, key) => kept.get(client)?.[key] ?? null,
        },
        params,
        state,
      );
      for (const report of reports) kept.set(report.client, report.kept);
    }
    const clients = examples.map((own, client) => ({ client, examples: own, kept: kept.get(client) ?? {} }));
    const measured = await fitter.evaluateClients({ start: publish(), split: 'train', clients });
    await fitter.dispose();
    return { params, state, own: measured.map(({ loss, examples: n }) => loss / n), vectors: server.vectors ?? {} };
  };
  return { reference: referenceOf(train, layout, initial, examples), examples, shared, run };
}

function referenceOf(
  train: ReturnType<ReturnType<typeof openDataset>['split']>,
  layout: VectorLayout,
  initial: Float32Array,
  examples: readonly Int32Array[],
): Reference {
  const offset = (path: string) => layout.places.find((place) => place.path === path)?.offset as number;
  const [b1, w1] = [offset('hidden.0.linear.bias'), offset('hidden.0.linear.weight')];
  const [b2, w2] = [offset('head.linear.bias'), offset('head.linear.weight')];
  const x = (example: number) => train.batch(Int32Array.of(example)).inputs[0]?.data as Float32Array;
  const y = (example: number) => train.labels?.[example] as number;
  const forward: Reference['forward'] = (w, example) => {
    const input = x(example);
    const linear = (values: ArrayLike<number>, bias: number, weight: number, width: number) =>
      Array.from({ length: width }, (_, j) =>
        Array.from(values).reduce(
          (sum, value, i) => sum + value * (w[weight + i * width + j] as number),
          w[bias + j] as number,
        ),
      );
    const features = linear(input, b1, w1, HIDDEN).map(Math.tanh);
    return { features, logits: linear(features, b2, w2, CLASSES) };
  };
  return {
    layout,
    initial: Float64Array.from(initial),
    x,
    y,
    forward,
    loss: (w, list) =>
      mean(Array.from(list, (example) => -Math.log(softmax(forward(w, example).logits)[y(example)] as number))),
    batches: (round, client, { pass = '', epochs = 1, over = examples[client] as Int32Array } = {}) =>
      clientBatches({ seed: SEED, round, client, examples: over, epochs, batch: 4, maxSteps: null, pass }),
    head: layout.places.flatMap(({ path, size }) => new Array<boolean>(size).fill(path.startsWith('head.'))),
  };
}

export const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

export function softmax(logits: readonly number[]): number[] {
  const sum = logits.reduce((total, value) => total + Math.exp(value), 0);
  return logits.map((value) => Math.exp(value) / sum);
}

/** The gradient by central differences. */
export function gradient(fn: (w: Float64Array) => number, at: Float64Array): Float64Array {
  const h = 1e-5;
  return at.map((_, i) => {
    const shifted = (by: number) => fn(at.map((value, j) => (i === j ? value + by : value)));
    return (shifted(h) - shifted(-h)) / (2 * h);
  });
}

function sharedOf(values: Float32Array): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(values.byteLength);
  new Float32Array(buffer).set(values);
  return buffer;
}
