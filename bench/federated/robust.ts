// Robust aggregation under attack: Fashion-MNIST, MLP 784-200-10, 100 clients of alike data, 20 a round, of which a fifth is
// malicious. Accuracy beside the same strategy's and averaging's without an attack.
//   npm run bench -- federated/robust [--fashion=FOLDER] [--seeds=3] [--rounds=30] [--attacks="sign-flip,label-flip x10"]
import { iid } from '../../src/index.ts';
import { flag } from '../scaling/table.ts';
import { federation, sourceOf, spread, spreadText, trained, word } from './federation.ts';

const SHARE = 0.2;
const COHORT = 20;
const all = [
  { title: 'no attack', attack: null },
  { title: 'sign-flip', attack: { name: 'sign-flip', share: SHARE, factor: 10 } },
  { title: 'label-flip', attack: { name: 'label-flip', share: SHARE } },
  { title: 'label-flip x10', attack: { name: 'label-flip', share: SHARE, factor: 10 } },
  { title: 'gaussian', attack: { name: 'gaussian', share: SHARE, factor: 0.5 } },
  { title: 'nan', attack: { name: 'nan', share: SHARE } },
] as const;
const wanted = word('attacks')?.split(',');
const attacks = all.filter(({ title, attack }) => !attack || !wanted || wanted.includes(title));
// Up to 8 of a round's 20 are malicious where 4 are the mean: what the strategies are told to expect.
const strategies = [
  { strategy: 'fedavg', settings: {} },
  { strategy: 'fedmedian', settings: {} },
  { strategy: 'krum', settings: { malicious: 7 } },
  { strategy: 'multikrum', settings: { malicious: 7 } },
  { strategy: 'rfa', settings: {} },
] as const;

const seeds = flag('seeds', 3);
const count = flag('rounds', 30);
console.log(
  `test accuracy after ${count} rounds, ${100 * SHARE} % of the clients malicious, ${seeds} seeds: mean ± deviation`,
);
console.log(`${''.padEnd(12)}${attacks.map(({ title }) => title.padStart(17)).join('')}`);
let clean = Number.NaN;
let worst = 0;
for (const { strategy, settings } of strategies) {
  const of = await federation({ data: 'fashion-mnist', hidden: [200], lr: 0.05, batch: 10, strategy, settings });
  let line = strategy.padEnd(12);
  for (const { title, attack } of attacks) {
    const found: number[] = [];
    for (let seed = 0; seed < seeds; seed++) {
      const partition = iid(sourceOf(of), { clients: 100, seed });
      const options = { seed, cohort: COHORT, epochs: 1, batch: 10, rounds: count, behaviour: { attack } };
      found.push(await trained(of, partition, options));
    }
    if (strategy === 'fedavg' && title === 'no attack') clean = spread(found).mean;
    if (strategy !== 'fedavg') worst = Math.max(worst, clean - spread(found).mean);
    line += spreadText(found).padStart(17);
  }
  console.log(line);
  await of.close();
}
console.log(
  `robust strategies are at most ${worst.toFixed(1)} points below averaging without an attack; target 3: ${worst <= 3 ? 'met' : 'NOT met'}`,
);
