// Models of the clients' own: Fashion-MNIST, 100 clients of two classes each, 10 a round, E = 1, B = 10, MLP 784-100-10. Every
// client holds a fifth of its examples back; its accuracy on those, with its own model and what the server has at the end.
//   npm run bench -- federated/personal [--rounds=100] [--seeds=1] [--lr=0.05] [--threads=2]
import { type ClientEvaluation, ClientStore, type Partition, pathological } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, rounds, sourceOf, spread } from './federation.ts';

// `alone`: all layers stay with the client, which learns from nobody.
const STRATEGIES: readonly (readonly [name: string, strategy: string, settings: object])[] = [
  ...['fedavg', 'fedper', 'fedrep', 'ditto', 'pfedme', 'apfl'].map((name) => [name, name, {}] as const),
  ['alone', 'fedper', { personal: ['*'] }],
];
const CLIENTS = 100;

/** A client's examples but every fifth, and every fifth: they come in the order of a permutation. */
function held(partition: Partition): { readonly train: Partition; test(client: number): Int32Array } {
  const kept = (client: number) => partition.examples(client).filter((_, i) => i % 5 !== 4);
  return {
    train: { ...partition, size: (client) => kept(client).length, examples: kept },
    test: (client) => partition.examples(client).filter((_, i) => i % 5 === 4),
  };
}

const count = flag('rounds', 100);
console.log(`accuracy of clients on held-out examples of their own after ${count} rounds, percent`);
console.log(
  'strategy     mean   spread over seeds   worst tenth of the clients   clients/s   bytes of a client and round',
);
for (const [name, strategy, settings] of STRATEGIES) {
  const of = await federation({
    data: 'fashion-mnist',
    hidden: [100],
    lr: flag('lr', 0.05),
    batch: 10,
    strategy,
    settings,
    threads: flag('threads', 2),
  });
  const means: number[] = [];
  const worst: number[] = [];
  let ms = 0;
  let bytes = 0;
  for (let seed = 0; seed < flag('seeds', 1); seed++) {
    const { train, test } = held(pathological(sourceOf(of), { clients: CLIENTS, classes: 2, seed }));
    const store = new ClientStore();
    const simulation = rounds(of, train, { seed, cohort: 10, epochs: 1, batch: 10, store });
    for (let round = 0; round < count; round++) {
      const report = await simulation.next();
      ms += report.ms;
      bytes += report.bytesUp / report.completed;
    }
    const clients = Array.from(
      { length: CLIENTS },
      (_, client): ClientEvaluation => ({ client, examples: test(client), kept: store.get(client) }),
    );
    const reports = await of.pool.evaluateClients(of.pool.publish(simulation.params, new Float32Array(0)), clients);
    const accuracies = reports.map(({ correct, examples }) => (100 * (correct ?? 0)) / examples).sort((a, b) => a - b);
    means.push(spread(accuracies).mean);
    worst.push(spread(accuracies.slice(0, CLIENTS / 10)).mean);
    store.close();
  }
  await of.close();
  const { mean, deviation } = spread(means);
  const fits = count * 10 * means.length;
  console.log(
    `${name.padEnd(10)} ${mean.toFixed(1).padStart(6)} ${(means.length > 1 ? deviation.toFixed(1) : '-').padStart(12)} ${spread(worst).mean.toFixed(1).padStart(22)} ${((1000 * fits) / ms).toFixed(0).padStart(20)} ${(bytes / (count * means.length)).toFixed(0).padStart(16)}`,
  );
}
