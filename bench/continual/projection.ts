// What is forgotten where weights only move orthogonally to what earlier tasks need: Permuted-MNIST, domain-incremental (one head, the
// task is not known), ordinary and spiking layers, one pass over 60,000 images a task, SGD lr 0.05, batches of 64.
//   npm run bench -- continual/projection [--tasks=5] [--seeds=1] [--hidden=256]
import { flag } from '../scaling/table.ts';
import { type SequenceResult, sequence } from './sequence.ts';

const tasks = flag('tasks', 5);
const seeds = flag('seeds', 1);
const hidden = flag('hidden', 256);
/** Points that projected learning may forget at most. */
const MOST = 3;

const models = [
  { name: 'mlp', args: { hidden: [hidden, hidden] } },
  { name: 'spiking-mlp', args: { hidden: [hidden, hidden] } },
];

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

console.log(`Permuted-MNIST, ${tasks} tasks, ${seeds} seeds: in percent`);
console.log(`${''.padEnd(32)}${'accuracy'.padStart(10)}${'forgetting'.padStart(12)}${'seconds'.padStart(9)}`);
for (const model of models)
  for (const name of ['naive', 'gpm', 'hebbian-projection']) {
    const results: SequenceResult[] = [];
    for (let seed = 0; seed < seeds; seed++)
      results.push(
        await sequence({
          seed,
          model,
          data: { name: 'mnist', validation: 0 },
          batch: { global: 64, micro: 64 },
          optim: { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null },
          train: { eval_split: 'test' },
          scheduler: {
            name: 'continual',
            scenario: { name: 'domain-incremental', stream: { name: 'permuted', tasks } },
            strategy: { name },
          },
        }),
      );
    const [accuracy, forgetting, seconds] = (['accuracy', 'forgetting', 'seconds'] as const).map((key) =>
      mean(results.map((result) => result[key])),
    ) as [number, number, number];
    const verdict = name === 'naive' ? '' : `   below ${MOST}: ${forgetting < MOST ? 'met' : 'NOT met'}`;
    const figures = `${accuracy.toFixed(2).padStart(10)}${forgetting.toFixed(2).padStart(12)}${seconds.toFixed(0).padStart(9)}`;
    console.log(`${`${model.name}, ${name}`.padEnd(32)}${figures}${verdict}`);
  }
