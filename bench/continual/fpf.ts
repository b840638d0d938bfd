// FPF and k-FPF on class-incremental Split-Fashion-MNIST (5 tasks of 2 classes, MLP 784-100-100-10, SGD with learning rate 0.1, one
// epoch, 10 new images a step): what fine-tuning the modules that change most adds to ER, EWC and LwF, and what k-FPF reaches without
// replay in every step, and at which cost.
//   npm run bench -- continual/fpf [--fashion=FOLDER] [--seeds=3] [--only=k-fpf]
import { fashionFolder, spread, spreadText, word } from '../federated/federation.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { sequence } from './sequence.ts';

const WIDTHS = [784, 100, 100, 10];
/**
 * FLOPs of an example: forward, and backward to all weights and to the inputs of all layers but the first. Nothing is taken off for
 * modules that are frozen or tuned alone: their gradients are computed all the same.
 */
const forward = WIDTHS.slice(1).reduce((sum, width, i) => sum + 2 * width * (WIDTHS[i] as number), 0);
const PER_EXAMPLE = 3 * forward - 2 * 784 * 100;

interface Row {
  readonly name: string;
  readonly batch: number;
  readonly strategy: { readonly name: string; readonly [key: string]: unknown };
}

const tuning = { share: 0.67, tuning_epochs: 10, buffer: 500 };
const bases: Row[] = [
  { name: 'ER 500', batch: 20, strategy: { name: 'er', buffer: 500 } },
  { name: 'EWC', batch: 10, strategy: { name: 'ewc', lambda: 100 } },
  { name: 'LwF', batch: 10, strategy: { name: 'lwf' } },
];
const rows: Row[] = [
  ...bases.flatMap((base) => [
    base,
    { ...base, name: `FPF + ${base.name}`, strategy: { name: 'fpf', base: base.strategy, ...tuning } },
  ]),
  { name: 'naive', batch: 10, strategy: { name: 'naive' } },
  {
    name: 'k-FPF, all images trained on',
    batch: 10,
    strategy: { name: 'k-fpf', ...tuning, times: 4, tuning_epochs: 12 },
  },
  {
    name: 'k-FPF, 15 % of the images',
    batch: 10,
    strategy: { name: 'k-fpf', ...tuning, times: 4, tuning_epochs: 12, skip: 0.85 },
  },
];

const seeds = flag('seeds', 3);
const only = word('only');
const folder = fashionFolder();
printHeading(
  `class-incremental Split-Fashion-MNIST, ${seeds} seeds; accuracy in percent, computation of training in GFLOP`,
);
console.log(
  `  ${PER_EXAMPLE} FLOPs for each example of each step, fine-tuning included; what only fills a batch counts too`,
);
console.log(
  `  ${''.padEnd(30)}${'accuracy'.padStart(14)}${'examples'.padStart(12)}${'GFLOP'.padStart(8)}${'of ER'.padStart(8)}${'s'.padStart(8)}`,
);
// New images, and as many kept ones from the second task on; its first task's batches are half empty, which is not held against it.
const ER_EXAMPLES = 60_000 + 48_000;
for (const { name, batch, strategy } of rows.filter((row) => !only || row.strategy.name === only)) {
  const accuracies: number[] = [];
  const seconds: number[] = [];
  let examples = 0;
  for (let seed = 0; seed < seeds; seed++) {
    const result = await sequence({
      seed,
      model: { name: 'mlp', args: { hidden: WIDTHS.slice(1, -1) } },
      data: { name: 'fashion-mnist', validation: 0, normalise: false, ...(folder ? { path: folder } : {}) },
      batch: { global: batch, micro: batch },
      optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
      train: { eval_split: 'test' },
      scheduler: {
        name: 'continual',
        scenario: { name: 'class-incremental', stream: { name: 'split', tasks: 5 } },
        strategy,
      },
    });
    accuracies.push(result.accuracy);
    seconds.push(result.seconds);
    examples = strategy.name === 'er' ? ER_EXAMPLES : result.steps * batch;
  }
  const share = `${((100 * examples) / ER_EXAMPLES).toFixed(0)} %`;
  console.log(
    `  ${name.padEnd(30)}${spreadText(accuracies).padStart(14)}${String(examples).padStart(12)}${((examples * PER_EXAMPLE) / 1e9).toFixed(1).padStart(8)}${share.padStart(8)}${spread(seconds).mean.toFixed(1).padStart(8)}`,
  );
}
