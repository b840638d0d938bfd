// Accuracy of federated averaging on Fashion-MNIST: MLP 784-200-10, 100 clients, 10 a round, E = 1, B = 10, lr 0.05, 50 rounds.
// The targets are single runs (one seed) of a PyTorch program with the same settings, so that a difference tells little
// unless it is larger than what seeds make.
//   npm run bench -- federated/accuracy --fashion=FOLDER [--seeds=10] [--rounds=50] [--python=/usr/bin/python3]
// With --python, PyTorch trains the same clients in the same rounds (accuracy.py), from its own initial weights.
import { dirichlet, iid, type Partition, type PartitionSource, shards } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, pytorch, sourceOf, spread, spreadText, trained, word } from './federation.ts';

const clients = 100;
const cases: readonly {
  readonly name: string;
  readonly target: number;
  readonly make: (source: PartitionSource, seed: number) => Partition;
}[] = [
  { name: 'IID', target: 84.2, make: (source, seed) => iid(source, { clients, seed }) },
  ...[
    { alpha: 0.5, target: 82.4 },
    { alpha: 0.1, target: 74.9 },
  ].map(({ alpha, target }) => ({
    name: `Dirichlet ${alpha}`,
    target,
    make: (source: PartitionSource, seed: number) => dirichlet(source, { clients, alpha, min_size: 1, seed }),
  })),
  { name: '2 shards', target: 73.6, make: (source, seed) => shards(source, { clients, shards: 2, seed }) },
];

const python = word('python');
const seeds = flag('seeds', 10);
const count = flag('rounds', 50);
console.log(`test accuracy after ${count} rounds, ${seeds} seeds`);
const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10 });
for (const { name, target, make } of cases) {
  const found: number[] = [];
  const peers: number[] = [];
  for (let seed = 0; seed < seeds; seed++) {
    const partition = make(sourceOf(of), seed);
    found.push(await trained(of, partition, { seed, cohort: 10, epochs: 1, batch: 10, rounds: count }));
    if (python) {
      const job = { folder: of.folder, hidden: [200], lr: 0.05, partition, seed, count };
      peers.push(pytorch(python, job)[0] as number);
    }
  }
  const { mean, deviation } = spread(found);
  const first = spread(found.slice(0, 3)).mean;
  const within = Math.abs(first - target) <= 1 ? 'met' : 'NOT met';
  console.log(
    `${name.padEnd(14)} ${mean.toFixed(1)} ± ${deviation.toFixed(1)} (${Math.min(...found).toFixed(1)}-${Math.max(...found).toFixed(1)}); ` +
      `target ${target}, first three seeds ${first.toFixed(1)}: within 1.0 ${within}; ` +
      `the target is ${(Math.abs(target - mean) / deviation).toFixed(1)} deviations from the mean   [${found.map((value) => value.toFixed(1)).join(' ')}]`,
  );
  if (python)
    console.log(
      `${'PyTorch'.padStart(14)} ${spreadText(peers)}; ours minus PyTorch's, seed by seed: ${spreadText(found.map((value, i) => value - (peers[i] as number)))}   [${peers.map((value) => value.toFixed(1)).join(' ')}]`,
    );
}
await of.close();
