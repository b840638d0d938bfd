// FedTiny against pruning at initialisation with the same budget: Fashion-MNIST by Dirichlet(0.5), 100 clients, 10 a round, E = 1,
// B = 10, lr 0.05, MLP 784-200-10 of which a fiftieth is kept. The masks of pruning at initialisation keep the largest initial
// weights, with the same density in all layers or by size (ERK), and never change.
//   npm run bench -- federated/fedtiny [--fashion=FOLDER] [--seeds=3] [--rounds=30] [--density=0.02]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { train } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { fashionFolder, spread, spreadText } from './federation.ts';

const seeds = flag('seeds', 3);
const steps = flag('rounds', 30);
const density = flag('density', 0.02);
const LAST = 5;
const sparse = { name: 'fedtiny', density, flops: density };
const methods = [
  { title: 'dense (fedavg)', scheduler: { name: 'fedavg' } },
  { title: 'at init, uniform', scheduler: { ...sparse, layers: 'uniform', until: 0 } },
  { title: 'at init, by size', scheduler: { ...sparse, layers: 'size', until: 0 } },
  { title: 'fedtiny', scheduler: { ...sparse, until: Math.round(0.8 * steps) } },
];

const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));

/** Accuracies of the last rounds, and the largest figures of any round. */
async function run(scheduler: object, seed: number) {
  const curve: number[] = [];
  const most = { density: 0, flops_share: 0 };
  let bytes = 0;
  for await (const event of train({
    seed,
    model: { name: 'mlp', args: { hidden: [200], init: 'pytorch' } },
    data: { name: 'fashion-mnist', path: fashionFolder(), validation: 0, normalise: false },
    optim: { name: 'sgd', lr: 0.05, momentum: 0 },
    train: { steps, eval_every: 1, eval_split: 'test', checkpoint_every: 0 },
    run: { dir },
    scheduler: {
      clients: 100,
      cohort: 10,
      local_batch: 10,
      partition: { name: 'dirichlet', alpha: 0.5 },
      ...scheduler,
    },
  })) {
    if (event.type === 'step') {
      bytes += event.commBytes ?? 0;
      for (const name of ['density', 'flops_share'] as const)
        most[name] = Math.max(most[name], Number(event.metrics[name] ?? 1));
    }
    if (event.type === 'evaluated') curve.push(100 * Number(event.metrics.accuracy ?? 0));
  }
  return { accuracy: spread(curve.slice(-LAST)).mean, ...most, bytes };
}

console.log(
  `Fashion-MNIST, Dirichlet(0.5), ${steps} rounds, ${seeds} seeds: mean test accuracy of the last ${LAST} rounds`,
);
console.log(
  `${''.padEnd(20)}${'accuracy'.padStart(14)}${'density'.padStart(10)}${'FLOPs'.padStart(10)}${'MB sent'.padStart(10)}`,
);
const found = new Map<string, number>();
try {
  for (const { title, scheduler } of methods) {
    const runs: Awaited<ReturnType<typeof run>>[] = [];
    for (let seed = 0; seed < seeds; seed++) runs.push(await run(scheduler, seed));
    const accuracies = runs.map(({ accuracy }) => accuracy);
    found.set(title, spread(accuracies).mean);
    const most = (of: 'density' | 'flops_share') => Math.max(...runs.map((each) => each[of]));
    const sent = spread(runs.map(({ bytes }) => bytes / 1e6)).mean;
    const budget =
      title === 'fedtiny'
        ? `   budget: ${most('density') <= density && most('flops_share') <= density ? 'met' : 'NOT met'}`
        : '';
    console.log(
      `${title.padEnd(20)}${spreadText(accuracies).padStart(14)}${most('density').toFixed(4).padStart(10)}${most('flops_share').toFixed(4).padStart(10)}${sent.toFixed(1).padStart(10)}${budget}`,
    );
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
const [uniform = Number.NaN, bySize = Number.NaN, tiny = Number.NaN] = [
  'at init, uniform',
  'at init, by size',
  'fedtiny',
].map((title) => found.get(title));
console.log(`better than pruning at initialisation: ${tiny > Math.max(uniform, bySize) ? 'met' : 'NOT met'}`);
