// Remedies for client drift against plain averaging at equal rounds: Fashion-MNIST by Dirichlet(0.1), MLP 784-200-10, 100
// clients, 10 a round, E = 1, B = 10, lr 0.05.
//   npm run bench -- federated/drift [--seeds=3] [--rounds=50]
import { dirichlet } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, rounds, sourceOf, spread, spreadText } from './federation.ts';

const strategies = [
  { strategy: 'fedavg', settings: {} },
  { strategy: 'fedprox', settings: { mu: 0.01 } },
  { strategy: 'scaffold', settings: {} },
  { strategy: 'feddyn', settings: { alpha: 0.01 } },
] as const;

const seeds = flag('seeds', 3);
const count = flag('rounds', 50);
/** Rounds whose accuracies are averaged: a single one depends on who was asked last. */
const LAST = 10;
console.log(`Fashion-MNIST, Dirichlet(0.1), ${count} rounds, ${seeds} seeds: test accuracy`);
console.log(`${''.padEnd(24)}${'last round'.padStart(14)}${`mean of last ${LAST}`.padStart(18)}`);
let base = Number.NaN;
for (const { strategy, settings } of strategies) {
  const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10, strategy, settings });
  const final: number[] = [];
  const late: number[] = [];
  for (let seed = 0; seed < seeds; seed++) {
    const partition = dirichlet(sourceOf(of), { clients: 100, alpha: 0.1, min_size: 1, seed });
    const simulation = rounds(of, partition, { seed, cohort: 10, epochs: 1, batch: 10 });
    const curve: number[] = [];
    while (simulation.round < count) {
      await simulation.next();
      if (simulation.round > count - LAST) curve.push(await of.accuracy(simulation.params));
    }
    final.push(curve.at(-1) as number);
    late.push(spread(curve).mean);
  }
  await of.close();
  const { mean } = spread(late);
  if (strategy === 'fedavg') base = mean;
  const verdict = strategy === 'fedavg' ? '' : `   at least averaging: ${mean >= base ? 'met' : 'NOT met'}`;
  const name = `${strategy} ${Object.entries(settings)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ')}`;
  console.log(`${name.padEnd(24)}${spreadText(final).padStart(14)}${spreadText(late).padStart(18)}${verdict}`);
}
