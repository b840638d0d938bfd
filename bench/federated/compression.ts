// Bytes and accuracy with compressed updates: Fashion-MNIST, MLP 784-200-10, 100 clients by Dirichlet(0.5), 10 a round, E = 1,
// B = 10, lr 0.05, 50 rounds. Target: top-k with error feedback and int8 save 20 times the bytes of updates for at most one point.
//   npm run bench -- federated/compression [--fashion=FOLDER] [--seeds=3] [--rounds=50] [--only=TEXT]
import type * as z from 'zod';
import { dirichlet, type updateCompressionSchema } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { type Federation, federation, rounds, sourceOf, spread, spreadText, word } from './federation.ts';

type Compression = z.input<typeof updateCompressionSchema>;

const settings: readonly { readonly name: string; readonly compression: Compression }[] = [
  { name: 'none', compression: { name: 'none' } },
  { name: 'int8', compression: { name: 'int8' } },
  { name: 'sign', compression: { name: 'sign' } },
  { name: 'top-k 8 %, int8', compression: { name: 'top-k', ratio: 0.08, values: 'int8' } },
  { name: 'top-k 5 %, int8', compression: { name: 'top-k', ratio: 0.05, values: 'int8' } },
  {
    name: 'top-k 5 %, int8; parameters as int8',
    compression: { name: 'top-k', ratio: 0.05, values: 'int8', down: 'int8' },
  },
  { name: 'random mask 10 %, int8', compression: { name: 'random-mask', ratio: 0.1, values: 'int8' } },
  {
    name: 'random mask 10 %, int8, feedback',
    compression: { name: 'random-mask', ratio: 0.1, values: 'int8', error_feedback: true },
  },
  {
    name: 'top-k 5 %, int8, no feedback',
    compression: { name: 'top-k', ratio: 0.05, values: 'int8', error_feedback: false },
  },
  { name: 'top-k 2 %, int8', compression: { name: 'top-k', ratio: 0.02, values: 'int8' } },
];

interface Result {
  readonly accuracy: number;
  readonly up: number;
  readonly down: number;
}

async function train(of: Federation, seed: number, count: number): Promise<Result> {
  const partition = dirichlet(sourceOf(of), { clients: 100, alpha: 0.5, min_size: 1, seed });
  const simulation = rounds(of, partition, { seed, cohort: 10, epochs: 1, batch: 10 });
  let up = 0;
  let down = 0;
  while (simulation.round < count) {
    const report = await simulation.next();
    up += report.bytesUp;
    down += report.bytesDown;
  }
  return { accuracy: await of.accuracy(simulation.params), up, down };
}

const count = flag('rounds', 50);
const seeds = Array.from({ length: flag('seeds', 3) }, (_, seed) => seed);
const only = word('only');
const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1).padStart(7);
console.log(`test accuracy and megabytes of ${count} rounds, ${seeds.length} seeds`);
let plain: readonly Result[] | null = null;
for (const { name, compression } of settings) {
  if (only !== null && name !== 'none' && !name.includes(only)) continue;
  const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10, compression });
  const results: Result[] = [];
  for (const seed of seeds) results.push(await train(of, seed, count));
  await of.close();
  plain ??= results;
  const [first, base] = [results[0] as Result, plain[0] as Result];
  const lost = spread(results.map(({ accuracy }, i) => (plain?.[i]?.accuracy as number) - accuracy)).mean;
  const times = base.up / first.up;
  const verdict =
    name.startsWith('top-k') && !name.endsWith('no feedback') && times >= 20
      ? ` target: ${lost <= 1 ? 'met' : 'NOT met'}`
      : '';
  console.log(
    `${name.padEnd(36)} ${spreadText(results.map(({ accuracy }) => accuracy))}  ${lost.toFixed(2).padStart(6)} points less   ` +
      `up ${megabytes(first.up)} MB (${times.toFixed(1)}x)  down ${megabytes(first.down)} MB (${(base.down / first.down).toFixed(1)}x)${verdict}`,
  );
}
