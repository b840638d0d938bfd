// FOSTER against iCaRL, replay and fine-tuning with equal memory: class-incremental Split-Fashion-MNIST (5 tasks of 2 classes, MLP
// 784-100-100-10, SGD with learning rate 0.1), 500 kept examples each.
//   npm run bench -- continual/foster [--fashion=FOLDER] [--seeds=3] [--epochs=2] [--limit=12000]
import { fashionFolder, spread, spreadText } from '../federated/federation.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { sequence } from './sequence.ts';

const rows = [
  { name: 'naive', strategy: { name: 'naive' } },
  { name: 'ER', strategy: { name: 'er', buffer: 500 } },
  { name: 'iCaRL', strategy: { name: 'icarl', buffer: 500 } },
  { name: 'FOSTER', strategy: { name: 'foster', buffer: 500 } },
] as const;

const seeds = flag('seeds', 3);
const epochs = flag('epochs', 2);
const limit = flag('limit', 12_000);
const folder = fashionFolder();
printHeading(
  `class-incremental Split-Fashion-MNIST, ${limit} training images, ${epochs} epochs, 500 kept, ${seeds} seeds; accuracy in percent`,
);
console.log(
  `  ${''.padEnd(10)}${'accuracy'.padStart(14)}${'forgetting'.padStart(14)}${'steps'.padStart(8)}${'s'.padStart(8)}`,
);
for (const { name, strategy } of rows) {
  const results = [];
  for (let seed = 0; seed < seeds; seed++)
    results.push(
      await sequence({
        seed,
        model: { name: 'mlp', args: { hidden: [100, 100] } },
        data: { name: 'fashion-mnist', validation: 0, limit, ...(folder ? { path: folder } : {}) },
        batch: { global: 20, micro: 20 },
        optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
        train: { eval_split: 'test' },
        scheduler: {
          name: 'continual',
          epochs,
          scenario: { name: 'class-incremental', stream: { name: 'split', tasks: 5 } },
          strategy,
        },
      }),
    );
  const accuracy = spreadText(results.map((result) => result.accuracy));
  const forgetting = spreadText(results.map((result) => result.forgetting));
  const seconds = spread(results.map((result) => result.seconds)).mean.toFixed(1);
  console.log(
    `  ${name.padEnd(10)}${accuracy.padStart(14)}${forgetting.padStart(14)}${String(results[0]?.steps).padStart(8)}${seconds.padStart(8)}`,
  );
}
