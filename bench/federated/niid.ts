// Rows of Flower's niid_bench (after Li et al., Federated Learning on Non-IID Data Silos, 2021): Fashion-MNIST, LeNet, 10 clients, all in
// every round, 50 rounds, 10 local epochs, B = 64, lr 0.01, momentum 0.9, weight decay 1e-5. One cell is 470,000 steps. Which labels share a
// client decides a lot, so with `labels` clients have the labels that the published run's seed drew; with --draw=own other ones by seed.
//   npm run bench -- federated/niid --fashion=FOLDER [--only=fedavg] [--split=dirichlet|labels] [--seeds=1] [--rounds=50] [--epochs=10]
//     [--threads=2] [--draw=own] [--first=0]
// `--first` is the first seed: cells take long, and can be had one by one.
import { dirichlet, type PartitionSource, pathological } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, rounds, sourceOf, spread, spreadText, word } from './federation.ts';

const clients = 10;
/** Labels of each client: niid_bench's draw with its default seed, 42. */
const PUBLISHED_LABELS = [7, 6, 4, 4, 8, 0, 2, 0, 5, 7].map((second, client) => [client, second]);
const splits = [
  {
    name: 'dirichlet',
    make: (source: PartitionSource, seed: number) => dirichlet(source, { clients, alpha: 0.5, min_size: 10, seed }),
    published: { fedavg: 88.09, scaffold: 88.44, fedprox: 88.15, fednova: 88.22 },
  },
  {
    name: 'labels',
    make: (source: PartitionSource, seed: number) =>
      pathological(source, { clients, classes: word('draw') === 'own' ? 2 : PUBLISHED_LABELS, seed }),
    published: { fedavg: 78.1, scaffold: 33.8, fedprox: 78.05, fednova: 71.67 },
  },
] as const;
const strategies = [
  { strategy: 'fedavg', settings: {} },
  { strategy: 'scaffold', settings: {} },
  { strategy: 'fedprox', settings: { mu: 0.01 } },
  { strategy: 'fednova', settings: {} },
] as const;

const [seeds, first, count, epochs] = [flag('seeds', 1), flag('first', 0), flag('rounds', 50), flag('epochs', 10)];
console.log(
  `Fashion-MNIST, LeNet, 10 clients, ${count} rounds of ${epochs} local epochs, ${seeds} seeds: test accuracy`,
);
for (const { strategy, settings } of strategies.filter(({ strategy }) => strategy === (word('only') ?? strategy))) {
  const of = await federation({
    ...{ data: 'fashion-mnist', model: 'lenet.ts', strategy, settings },
    ...{ lr: 0.01, momentum: 0.9, weightDecay: 1e-5, batch: 64, threads: flag('threads', 2) },
  });
  for (const { name, make, published } of splits.filter(({ name }) => name === (word('split') ?? name))) {
    const found: number[] = [];
    const began = performance.now();
    for (let seed = first; seed < first + seeds; seed++) {
      const simulation = rounds(of, make(sourceOf(of), seed), { seed, cohort: clients, epochs, batch: 64 });
      const last: number[] = [];
      while (simulation.round < count) {
        await simulation.next();
        last.push(await of.accuracy(simulation.params));
        if (simulation.round % 10 > 0) continue;
        const ten = last.splice(0);
        console.log(
          `  ${strategy} ${name}, round ${simulation.round}: ${ten.at(-1)?.toFixed(2)}, the last ${ten.length} rounds ${spreadText(ten)}`,
        );
      }
      found.push(await of.accuracy(simulation.params));
    }
    const { mean } = spread(found);
    const within = Math.abs(mean - published[strategy]) <= 2 ? 'met' : 'NOT met';
    console.log(
      `${strategy.padEnd(10)}${name.padEnd(12)}${spreadText(found).padStart(12)}   published ${published[strategy]}, within 2 points: ${within}   (${((performance.now() - began) / 1000).toFixed(0)} s)`,
    );
  }
  await of.close();
}
