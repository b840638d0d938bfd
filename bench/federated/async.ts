// Virtual time to an accuracy where clients' speeds differ by a factor of ten: FedBuff and FedAsync against synchronous FedAvg with as
// many clients at work at a time. Fashion-MNIST, MLP 784-200-10, 100 clients, Dirichlet 0.5, E = 1, B = 10, lr 0.05. Simulated times
// do not depend on the machine.
//   npm run bench -- federated/async [--seeds=3] [--target=80] [--fashion=FOLDER]
import {
  type AsyncServer,
  AsyncSimulation,
  behaviourSchema,
  clientBehaviour,
  dirichlet,
  fedasync,
  fedbuff,
  type Partition,
} from '../../src/index.ts';
import { flag, printHeading, printRatio } from '../scaling/table.ts';
import { type Federation, federation, rounds, sourceOf, spread } from './federation.ts';

const [TARGET, SEEDS] = [flag('target', 80), flag('seeds', 3)];
const WORKING = 10;
/** Updates after which a method has failed. */
const MOST = 1500;
const behaviour = behaviourSchema.parse({ speed_spread: 10 });

interface Reached {
  readonly seconds: number;
  readonly updates: number;
}

/** Steps until the accuracy is reached; infinite if it is not. `next` gives the simulated time so far. */
async function reach(
  of: Federation,
  params: Float32Array,
  perStep: number,
  next: () => Promise<number>,
): Promise<Reached> {
  for (let updates = perStep, measured = 0; updates <= MOST; updates += perStep) {
    const seconds = await next();
    // (Every ten updates, whatever makes a step.)
    if (Math.floor(updates / 10) === measured) continue;
    measured = Math.floor(updates / 10);
    if ((await of.accuracy(params)) >= TARGET) return { seconds, updates };
  }
  return { seconds: Number.POSITIVE_INFINITY, updates: MOST };
}

async function synchronous(of: Federation, partition: Partition, seed: number): Promise<Reached> {
  const simulation = rounds(of, partition, { seed, cohort: WORKING, epochs: 1, batch: 10, behaviour });
  let seconds = 0;
  return reach(of, simulation.params, WORKING, async () => {
    seconds += (await simulation.next()).seconds;
    return seconds;
  });
}

async function asynchronous(of: Federation, partition: Partition, seed: number, server: AsyncServer): Promise<Reached> {
  const simulation = new AsyncSimulation(
    {
      pool: of.pool,
      partition,
      server,
      behaviour: clientBehaviour(behaviour, seed),
      seed,
      concurrency: WORKING,
      local: { epochs: 1, batch: 10 },
    },
    of.initial(seed),
    new Float32Array(0),
  );
  try {
    return await reach(of, simulation.params, server.buffer, async () => (await simulation.next()).time);
  } finally {
    await simulation.settle();
  }
}

printHeading(
  `simulated time to ${TARGET} % on Fashion-MNIST, speeds spread 10x, ${WORKING} of 100 clients at work at a time`,
);
const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10 });
const methods: { name: string; run(partition: Partition, seed: number): Promise<Reached> }[] = [
  { name: 'fedavg', run: (partition, seed) => synchronous(of, partition, seed) },
  ...[
    { name: 'fedbuff, K = 10', server: fedbuff({ buffer: 10, serverLr: 1 }) },
    { name: 'fedbuff, K = 5', server: fedbuff({ buffer: 5, serverLr: 1 }) },
    { name: 'fedbuff, K = 2', server: fedbuff({ buffer: 2, serverLr: 1 }) },
    { name: 'fedasync, alpha = 0.3', server: fedasync({ alpha: 0.3, exponent: 0.5 }) },
  ].map(({ name, server }) => ({
    name,
    run: (partition: Partition, seed: number) => asynchronous(of, partition, seed, server),
  })),
];
const times = new Map<string, number>();
for (const { name, run } of methods) {
  const results: Reached[] = [];
  for (let seed = 1; seed <= SEEDS; seed++)
    results.push(await run(dirichlet(sourceOf(of), { clients: 100, seed, alpha: 0.5, min_size: 1 }), seed));
  const { mean, deviation } = spread(results.map(({ seconds }) => seconds));
  times.set(name, mean);
  console.log(
    `  ${name.padEnd(24)} ${mean.toFixed(1).padStart(7)} ± ${deviation.toFixed(1)} s, ${spread(results.map(({ updates }) => updates)).mean.toFixed(0)} updates`,
  );
}
await of.close();
for (const { name } of methods.slice(1))
  printRatio(
    `fedavg / ${name}`,
    (times.get('fedavg') ?? Number.NaN) / (times.get(name) ?? Number.NaN),
    name.startsWith('fedbuff') ? 2 : null,
  );
