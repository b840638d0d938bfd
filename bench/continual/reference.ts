// Class-incremental Split-Fashion-MNIST (5 tasks of 2 classes, 60,000/10,000 images, MLP 784-100-100-10, SGD with learning rate
// 0.1, one epoch, 10 new images a step) against figures of PyTorch, and against PyTorch's time in the same run where there is one.
//   npm run bench -- continual/reference --fashion=FOLDER [--seeds=5] [--only=er] [--python=/usr/bin/python3]
import { spawnSync } from 'node:child_process';
import { fashionFolder, spread, spreadText, word } from '../federated/federation.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { sequence } from './sequence.ts';

interface Row {
  readonly name: string;
  /** Final accuracy with PyTorch, mean and deviation over seeds, in percent. */
  readonly target: number;
  readonly deviation: number;
  readonly batch: number;
  readonly strategy: object;
  /** What reference.py is asked for. */
  readonly peer: { readonly method: string; readonly buffer?: number };
}

const rows: readonly Row[] = [
  { name: 'naive', target: 19.9, deviation: 0.1, batch: 10, strategy: { name: 'naive' }, peer: { method: 'naive' } },
  {
    name: 'a-gem 500',
    target: 45.1,
    deviation: 1.3,
    batch: 256,
    strategy: { name: 'a-gem', buffer: 500, fresh: 10 },
    peer: { method: 'a-gem', buffer: 500 },
  },
  ...[
    { buffer: 200, target: 70.6, deviation: 1.2 },
    { buffer: 500, target: 77.8, deviation: 0.3 },
  ].map(
    ({ buffer, ...given }): Row => ({
      ...given,
      name: `er ${buffer}`,
      batch: 20,
      strategy: { name: 'er', buffer },
      peer: { method: 'er', buffer },
    }),
  ),
  ...[
    { buffer: 200, target: 73.5, deviation: 0.7 },
    { buffer: 500, target: 78.5, deviation: 2.1 },
  ].map(
    ({ buffer, ...given }): Row => ({
      ...given,
      name: `der++ ${buffer}`,
      batch: 30,
      strategy: { name: 'der++', buffer, replay: 20, alpha: 0.2, beta: 1 },
      peer: { method: 'der++', buffer },
    }),
  ),
  { name: 'joint', target: 83.4, deviation: 0.2, batch: 10, strategy: { name: 'joint' }, peer: { method: 'joint' } },
];

const folder = fashionFolder();
const python = word('python');
const only = word('only');
const seeds = flag('seeds', 5);

/** The same in PyTorch, one thread. */
function torch(row: Row, seed: number): { accuracy: number; seconds: number } {
  const job = JSON.stringify({ ...row.peer, seed, folder });
  const { stdout, stderr, status } = spawnSync(python as string, ['bench/continual/reference.py'], {
    input: job,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${python} bench/continual/reference.py failed: ${stderr}`);
  return JSON.parse(stdout) as { accuracy: number; seconds: number };
}

printHeading(`class-incremental Split-Fashion-MNIST, ${seeds} seeds, one worker of one thread; accuracy in percent`);
if (python && !folder)
  throw new Error('--python wants --fashion=FOLDER, the four IDX files that PyTorch reads as well');
for (const row of rows.filter(({ name }) => !only || name.startsWith(only))) {
  const ours: number[] = [];
  const forgetting: number[] = [];
  const seconds: number[] = [];
  const peers: { accuracy: number; seconds: number }[] = [];
  for (let seed = 0; seed < seeds; seed++) {
    const result = await sequence({
      seed,
      model: { name: 'mlp', args: { hidden: [100, 100], init: 'pytorch' } },
      data: { name: 'fashion-mnist', path: folder, validation: 0, normalise: false },
      batch: { global: row.batch, micro: row.batch },
      optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
      train: { eval_split: 'test', checkpoint_every: 0 },
      scheduler: {
        name: 'continual',
        scenario: { name: 'class-incremental', stream: { name: 'split', tasks: 5 } },
        strategy: row.strategy,
      },
    });
    ours.push(result.accuracy);
    forgetting.push(result.forgetting);
    seconds.push(result.seconds);
    if (python) peers.push(torch(row, seed));
  }
  const { mean, deviation } = spread(ours);
  // Twice the deviation of a difference of two means over five seeds each; at least half a point.
  const noise = Math.max(0.5, 2 * Math.sqrt((deviation ** 2 + row.deviation ** 2) / seeds));
  const off = mean - row.target;
  const verdict = Math.abs(off) <= noise ? 'within noise' : off > 0 ? 'above' : 'BELOW';
  const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1] as number;
  const own = median(seconds);
  const beside = peers.map((peer) => peer.seconds);
  const timing = python
    ? `; PyTorch now ${spreadText(peers.map(({ accuracy }) => accuracy))}, ${median(beside).toFixed(1)} s: ${(own / median(beside)).toFixed(2)} of its time, target 0.5: ${own <= median(beside) / 2 ? 'met' : 'NOT met'}`
    : '';
  console.log(
    `${row.name.padEnd(10)} ${spreadText(ours)} (forgetting ${spreadText(forgetting)}), target ${row.target} ± ${row.deviation}: ${verdict} (${off >= 0 ? '+' : ''}${off.toFixed(1)}, noise ${noise.toFixed(1)}); ` +
      `${own.toFixed(1)} s a run (${Math.min(...seconds).toFixed(1)}-${Math.max(...seconds).toFixed(1)})${timing}`,
  );
}
