// What a simulated client costs: 50 examples, 5 steps of B = 10, MLP 784-200-10, one thread; then two threads against one.
//   npm run bench -- federated/speed [--rounds=12]
import { drawn } from '../../src/index.ts';
import { timing } from '../engine/stats.ts';
import { flag, printHeading, printRatio } from '../scaling/table.ts';
import { federation, rounds, sourceOf } from './federation.ts';

const COHORT = 100;
const medians: number[] = [];
printHeading('federated round: clients of 50 examples, 5 steps of 10, MLP 784-200-10');
for (const threads of [1, 2]) {
  const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10, threads });
  const partition = drawn(sourceOf(of), { clients: 1000, size: 50, seed: 1 });
  const simulation = rounds(of, partition, { seed: 1, cohort: COHORT, epochs: 1, batch: 10 });
  const samples: number[] = [];
  for (let round = 0; round < flag('rounds', 12) + 4; round++) {
    const { ms } = await simulation.next();
    if (round >= 4) samples.push(ms / COHORT);
  }
  await of.close();
  const { median, min, max } = timing(samples);
  medians.push(median);
  console.log(
    `${threads} thread${threads === 1 ? ' ' : 's'}  ${median.toFixed(3)} ms a client (${min.toFixed(3)}-${max.toFixed(3)}), ${(1000 / median).toFixed(0)} clients/s`,
  );
}
const [one = Number.NaN, two = Number.NaN] = medians;
printRatio('target 1.5 ms / one thread', 1.5 / one, 1);
printRatio('two threads', one / two, 1.85);
