// PICLE on five tasks of MNIST digits (14x14 pixels, MLP 196-64-64-10, AdamW) that have something in common with earlier ones in the ways of
// the CTrL benchmark (Veniat, Denoyer and Ranzato, 2021): once more the first task with few examples (S-), its inputs with other labels,
// its labels with other inputs. With the library and without (each task a network of its own), against progressive networks and naive
// fine-tuning.
//   npm run bench -- continual/picle [--seeds=3] [--epochs=15] [--trial-epochs=10]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CheckpointReader,
  createRng,
  dataSchema,
  newestCheckpoint,
  openDataset,
  permutation,
  prepareData,
} from '../../src/index.ts';
import { jsonOf } from '../../src/schedulers/continual/arrays.ts';
import type { SearchLog } from '../../src/schedulers/continual/module-search.ts';
import { spreadText } from '../federated/federation.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { type SequenceResult, sequence } from './sequence.ts';

const SIDE = 14;
/** Share of the rows that tasks are evaluated on. */
const EVALUATED = 0.8;

/** Tasks: how many training images, and in what they differ from the first one. Equal numbers: equal permutations. */
const tasks = [
  { name: 'digits', train: 1600, pixels: 0, labels: 0 },
  { name: 'permuted', train: 1600, pixels: 1, labels: 0 },
  { name: 'digits again', train: 100, pixels: 0, labels: 0 },
  { name: 'other labels', train: 100, pixels: 0, labels: 1 },
  { name: 'other pixels', train: 200, pixels: 2, labels: 0 },
] as const;

/** Writes all tasks' images, each image in one task only, as rows of a table. */
async function writeTasks(path: string, seed: number): Promise<void> {
  const data = await prepareData(dataSchema.parse({ name: 'mnist', validation: 0, normalise: false }));
  const split = openDataset(data).split('train');
  const rng = createRng(seed).fork('picle bench');
  const order = permutation(split.examples, rng.fork('images'));
  const lines = [[...Array.from({ length: SIDE * SIDE }, (_, i) => `p${i}`), 'key', 'label'].join(',')];
  let at = 0;
  for (const [task, { train, pixels, labels }] of tasks.entries()) {
    const places = permutation(SIDE * SIDE, rng.fork('pixels', pixels));
    const names = permutation(10, rng.fork('labels', labels));
    for (const end = at + Math.round(train / (1 - EVALUATED)); at < end; at++) {
      const example = order[at] as number;
      const image = split.batch(Int32Array.of(example)).inputs[0]?.data as Float32Array;
      const small = Array.from(places, (place, i) => pooled(image, pixels === 0 ? i : place).toFixed(3));
      const label = split.labels?.[example] as number;
      lines.push([...small, `t${task}`, `c${labels === 0 ? label : names[label]}`].join(','));
    }
  }
  writeFileSync(path, lines.join('\n'));
}

/** Mean of four pixels. */
function pooled(image: Float32Array, place: number): number {
  const first = 4 * SIDE * Math.floor(place / SIDE) + 2 * (place % SIDE);
  return [0, 1, 2 * SIDE, 2 * SIDE + 1].reduce((sum, offset) => sum + (image[first + offset] as number), 0) / 4;
}

async function logOf(folder: string): Promise<SearchLog> {
  const { path, index } = await newestCheckpoint(join(folder, 'checkpoints'));
  const reader = await CheckpointReader.open(path, index);
  const log = jsonOf(await reader.read('scheduler/kept/picle')) as SearchLog;
  await reader.close();
  return log;
}

const seeds = flag('seeds', 3);
const epochs = flag('epochs', 15);
const trials = { trial_epochs: flag('trial-epochs', 10) };
const rows = [
  { name: 'naive', strategy: { name: 'naive' } },
  { name: 'pnn', strategy: { name: 'pnn' } },
  { name: 'picle, nothing reused', strategy: { name: 'picle', perceptual: 0, latent: 0, ...trials } },
  { name: 'picle', strategy: { name: 'picle', ...trials } },
] as const;

printHeading(`five tasks of ${tasks.map(({ train }) => train).join(', ')} digits, ${epochs} epochs, ${seeds} seeds`);
console.log('  accuracy in percent on each task when it has been learnt, and on all at the end');
console.log(
  `  ${''.padEnd(22)}${[...tasks.map(({ name }) => name), 'at the end', 's'].map((name) => name.padStart(15)).join('')}`,
);
const folder = mkdtempSync(join(tmpdir(), 'plexus-picle-'));
try {
  for (let seed = 0; seed < seeds; seed++) await writeTasks(join(folder, `${seed}.csv`), seed);
  for (const { name, strategy } of rows) {
    const results: SequenceResult[] = [];
    const logs: SearchLog[] = [];
    for (let seed = 0; seed < seeds; seed++) {
      const config = {
        seed,
        model: { name: 'mlp', args: { hidden: [64, 64] } },
        data: {
          name: 'csv',
          path: join(folder, `${seed}.csv`),
          label: 'label',
          columns: Array.from({ length: SIDE * SIDE }, (_, i) => `p${i}`),
          normalise: false,
          validation: EVALUATED,
        },
        batch: { global: 10, micro: 10 },
        optim: { name: 'adamw', lr: 1e-3, weight_decay: 0, clip_norm: null },
        scheduler: {
          name: 'continual',
          epochs,
          scenario: {
            name: 'task-incremental',
            stream: { name: 'natural', key: 'key', values: tasks.map((_, task) => [`t${task}`]) },
          },
          strategy,
        },
      };
      const look = async (run: string): Promise<void> => void logs.push(await logOf(run));
      results.push(await sequence(config, strategy.name === 'picle' ? look : undefined));
    }
    const learnt = tasks.map((_, task) =>
      spreadText(results.map(({ matrix }) => 100 * (matrix[task]?.[task] as number))),
    );
    const seconds = results.reduce((sum, result) => sum + result.seconds, 0) / seeds;
    const cells = [...learnt, spreadText(results.map(({ accuracy }) => accuracy)), seconds.toFixed(1)];
    console.log(`  ${name.padEnd(22)}${cells.map((cell) => cell.padStart(15)).join('')}`);
    for (const [seed, log] of logs.entries()) {
      const tried = log.trials.map((each) => each.length).join(' ');
      const compositions = log.compositions.map((each) => each.map((task) => task + 1).join('-')).join('  ');
      console.log(
        `    seed ${seed}: compositions trained ${tried}; chosen, by the task of each module: ${compositions}`,
      );
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
