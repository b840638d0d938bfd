// Many registered clients: time to make a million, and peak memory of rounds of 100 out of 100,000 (and, to see that it does not
// grow with the registered ones, out of a million).
//   npm run bench -- federated/scale [--clients=100000] [--rounds=20]
import { drawn } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, rounds, sourceOf } from './federation.ts';

const peak = () => process.resourceUsage().maxRSS / 1024;
const clients = flag('clients', 100_000);
const of = await federation({ data: 'mnist', hidden: [200], lr: 0.05, batch: 10 });
console.log(`peak memory before the first round ${peak().toFixed(0)} MB`);
const options = { seed: 0, cohort: 100, epochs: 1, batch: 10 };
const began = performance.now();
const million = rounds(of, drawn(sourceOf(of), { clients: 1_000_000, size: 50, seed: 0 }), options);
const seconds = (performance.now() - began) / 1000;
console.log(`a million clients made in ${seconds.toFixed(3)} s; target 5 s: ${seconds <= 5 ? 'met' : 'NOT met'}`);
const simulation = rounds(of, drawn(sourceOf(of), { clients, size: 50, seed: 0 }), options);
const times: number[] = [];
while (simulation.round < flag('rounds', 20)) times.push((await simulation.next()).ms);
const megabytes = peak();
times.sort((a, b) => a - b);
console.log(
  `${clients} clients, 100 a round: ${times[times.length >> 1]?.toFixed(0)} ms a round, peak memory ${megabytes.toFixed(0)} MB; target 500 MB: ${megabytes <= 500 ? 'met' : 'NOT met'}`,
);
for (let i = 0; i < 5; i++) await million.next();
console.log(`peak memory after rounds with a million clients: ${peak().toFixed(0)} MB`);
await of.close();
