// FedETF against plain averaging at equal rounds: Fashion-MNIST by Dirichlet(0.1), MLP 784-200-10, 100 clients, 10 a round, E = 1,
// B = 10, lr 0.05. Then models of the clients' own: each fine-tunes the common one on four fifths of its examples, and is
// measured on the others.
//   npm run bench -- federated/fedetf [--fashion=FOLDER] [--seeds=3] [--rounds=50]
import { dirichlet, fineTune, heldOut, type Partition, TUNE } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { type Federation, federation, rounds, sourceOf, spread, spreadText } from './federation.ts';

const methods = [
  { strategy: 'fedavg', settings: {}, args: {}, tensors: {} },
  {
    strategy: 'fedetf',
    settings: { tuning_turns: 2, tuning_epochs: 1 },
    args: { head: { kind: 'etf', trainable: true } },
    tensors: { [TUNE]: Float32Array.of(1) },
  },
] as const;
const seeds = flag('seeds', 3);
const count = flag('rounds', 50);
/** Rounds whose accuracies are averaged: a single one depends on who was asked last. */
const LAST = 10;

/** Parameters after all rounds, and the test accuracies of the last ones. */
async function trained(of: Federation, partition: Partition, seed: number) {
  const simulation = rounds(of, partition, { seed, cohort: 10, epochs: 1, batch: 10 });
  const curve: number[] = [];
  while (simulation.round < count) {
    await simulation.next();
    if (simulation.round > count - LAST) curve.push(await of.accuracy(simulation.params));
  }
  return { params: simulation.params, curve };
}

console.log(`Fashion-MNIST, Dirichlet(0.1), ${count} rounds, ${seeds} seeds`);
console.log(
  `${''.padEnd(10)}${'last round'.padStart(14)}${`mean of last ${LAST}`.padStart(18)}${'common, own data'.padStart(20)}${'fine-tuned'.padStart(14)}`,
);
let base = Number.NaN;
for (const { strategy, settings, args, tensors } of methods) {
  const of = await federation({ data: 'fashion-mnist', hidden: [200], args, lr: 0.05, batch: 10, strategy, settings });
  const final: number[] = [];
  const late: number[] = [];
  const common: number[] = [];
  const own: number[] = [];
  for (let seed = 0; seed < seeds; seed++) {
    const partition = dirichlet(sourceOf(of), { clients: 100, alpha: 0.1, min_size: 1, seed });
    const { curve } = await trained(of, partition, seed);
    final.push(curve.at(-1) as number);
    late.push(spread(curve).mean);
    const { train, held } = heldOut(partition, 0.2, seed);
    const { params } = await trained(of, train, seed);
    const tuned = await fineTune({
      pool: of.pool,
      params,
      state: new Float32Array(0),
      tensors,
      train,
      measured: held,
      clients: Array.from({ length: 100 }, (_, client) => client),
      epochs: 1,
      round: count,
    });
    const accuracy = (which: 'before' | 'after') =>
      spread(tuned.map((each) => (100 * (each[which].correct ?? 0)) / each[which].examples)).mean;
    common.push(accuracy('before'));
    own.push(accuracy('after'));
  }
  await of.close();
  const { mean } = spread(late);
  if (strategy === 'fedavg') base = mean;
  const verdict = strategy === 'fedavg' ? '' : `   at least averaging: ${mean >= base ? 'met' : 'NOT met'}`;
  console.log(
    `${strategy.padEnd(10)}${spreadText(final).padStart(14)}${spreadText(late).padStart(18)}${spreadText(common).padStart(20)}${spreadText(own).padStart(14)}${verdict}`,
  );
}
