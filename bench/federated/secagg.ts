// What secure aggregation costs: rounds of 10 clients with an MLP 784-200-10 (159,010 parameters), plain against SecAgg+ with every
// client in place and with three of ten leaving in the middle, for clients of 600 examples (60 steps) and of 50 (5 steps). All
// clients' cryptography is done by these two threads; on their own machines they share it out. Each has eight neighbours, the fewest with
// which any three may leave. Processor time of all threads tells how
// much work there is even where the machine is busy with other things.
//   npm run bench -- federated/secagg [--rounds=8]
import { type Collector, drawn, secureCollector } from '../../src/index.ts';
import { timing } from '../engine/stats.ts';
import { flag, printHeading } from '../scaling/table.ts';
import { federation, rounds, sourceOf } from './federation.ts';

const ROUNDS = flag('rounds', 8);
printHeading('rounds of 10 clients x 159,010 parameters, plain and with secure aggregation, two threads');
const of = await federation({ data: 'mnist', hidden: [200], lr: 0.05, batch: 10 });
const secure = secureCollector({ config: { name: 'secagg+', neighbours: 8, range: 8 }, seed: 1 });
/** Three clients leave when they have trained. */
const leaving: Collector = {
  begin: async (beginning) => {
    const collection = await secure.begin(beginning);
    return { collect: ({ updates, ...rest }) => collection.collect({ ...rest, updates: updates.slice(3) }) };
  },
};

for (const size of [600, 50]) {
  const partition = drawn(sourceOf(of), { clients: 100, size, seed: 1 });
  const kinds: { name: string; collector?: Collector }[] = [
    { name: 'plain' },
    { name: 'secagg+', collector: secure },
    { name: 'secagg+, 3 of 10 leave', collector: leaving },
  ];
  const best = new Map<string, { readonly ms: number; readonly work: number }>();
  // In turns, so that whatever else the machine does hits all of them.
  const runs = kinds.map(({ name, collector }) => ({
    name,
    samples: [] as number[],
    work: [] as number[],
    simulation: rounds(of, partition, {
      seed: 1,
      cohort: 10,
      epochs: 1,
      batch: 10,
      ...(collector ? { collector } : {}),
    }),
  }));
  for (let round = 0; round < ROUNDS + 2; round++)
    for (const { simulation, samples, work } of runs) {
      const before = process.cpuUsage();
      const { ms, counted, uncounted } = await simulation.next();
      if (!counted) throw new Error(`a round was not counted: ${uncounted}`);
      const { user, system } = process.cpuUsage(before);
      if (round < 2) continue;
      samples.push(ms);
      work.push((user + system) / 1000);
    }
  console.log(`clients of ${size} examples`);
  for (const { name, samples, work } of runs) {
    const { median, min } = timing(samples);
    best.set(name, { ms: min, work: timing(work).min });
    console.log(
      `  ${name.padEnd(26)} ${median.toFixed(1)} ms a round (best ${min.toFixed(1)}), processor time at best ${timing(work).min.toFixed(1)} ms`,
    );
  }
  for (const { name } of runs.slice(1)) {
    const ratio = (of: 'ms' | 'work') => (best.get(name)?.[of] ?? Number.NaN) / (best.get('plain')?.[of] ?? Number.NaN);
    console.log(
      `  ${`${name} / plain, best rounds`.padEnd(38)} ${ratio('ms').toFixed(2)}x (processor time ${ratio('work').toFixed(2)}x)  target <= 3: ${ratio('ms') <= 3 ? 'met' : 'NOT met'}`,
    );
  }
}
await of.close();
