// Sixteen nodes without a server against federated averaging with all sixteen in every round: accuracy after the same local epochs,
// and what goes over the wire. Fashion-MNIST, MLP 784-200-10, Dirichlet 0.5, E = 1, B = 10, lr 0.05.
//   npm run bench -- federated/gossip [--seeds=3] [--rounds=20] [--fashion=FOLDER]
import { dirichlet, Gossip, TOPOLOGIES, type TopologyKind, topology } from '../../src/index.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { federation, rounds, sourceOf, spread, spreadText } from './federation.ts';

const [NODES, ROUNDS, SEEDS] = [16, flag('rounds', 20), flag('seeds', 3)];
printHeading(`${NODES} nodes, ${ROUNDS} rounds, Fashion-MNIST, Dirichlet 0.5: accuracy of the mean of the nodes`);
const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10 });
const partitionOf = (seed: number) => dirichlet(sourceOf(of), { clients: NODES, seed, alpha: 0.5, min_size: 1 });
const seeds = Array.from({ length: SEEDS }, (_, i) => i + 1);

const central: number[] = [];
for (const seed of seeds) {
  const simulation = rounds(of, partitionOf(seed), { seed, cohort: NODES, epochs: 1, batch: 10 });
  while (simulation.round < ROUNDS) await simulation.next();
  central.push(await of.accuracy(simulation.params));
}
console.log(`  ${'fedavg'.padEnd(12)} ${spreadText(central)} %`);
for (const kind of TOPOLOGIES.filter((name) => name !== 'complete')) await measure(kind);
await of.close();

async function measure(kind: TopologyKind): Promise<void> {
  const means: number[] = [];
  const own: number[] = [];
  const worst: number[] = [];
  let bytes = 0;
  for (const seed of seeds) {
    const gossip = new Gossip(
      {
        pool: of.pool,
        partition: partitionOf(seed),
        graph: topology(kind, NODES, { seed }),
        local: { epochs: 1, batch: 10 },
      },
      of.initial(seed),
      new Float32Array(0),
    );
    for (let round = 0; round < ROUNDS; round++) ({ bytes } = await gossip.next());
    means.push(await of.accuracy(gossip.mean()));
    const each: number[] = [];
    for (const node of gossip.nodes) each.push(await of.accuracy(node));
    own.push(spread(each).mean);
    worst.push(Math.min(...each));
  }
  const behind = spread(central).mean - spread(means).mean;
  // What all nodes sending everything to all others would take.
  const share = bytes / (NODES * (NODES - 1) * of.layout.size * 4);
  console.log(
    `  ${kind.padEnd(12)} ${spreadText(means)} %, nodes ${spreadText(own)}, worst ${spreadText(worst)}; ${behind.toFixed(2)} points behind fedavg  target <= 1: ${behind <= 1 ? 'met' : 'NOT met'}; ${share.toFixed(3)} of all-to-all traffic`,
  );
}
