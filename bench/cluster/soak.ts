// `npm run bench -- cluster/soak [--minutes=20] [--every=20] [--seed=1] [--step-ms=90]`: one run, disturbed at random (workers,
// coordinator and nats-server killed, workers frozen, links cut and swallowed); its bits must be those of the
// undisturbed run, and memory flat.
import { parseArgs } from 'node:util';
import { sameOutcome } from '../../test/chaos/cluster.ts';
import { soak } from '../../test/chaos/soak.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '20' },
    every: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    /** What a step takes on this machine: the number of steps is chosen by it. */
    'step-ms': { type: 'string', default: '90' },
  },
});
const report = await soak({
  minutes: Number(values.minutes),
  faultEveryMs: Number(values.every) * 1000,
  seed: Number(values.seed),
  stepMs: Number(values['step-ms']),
  say: (line) => console.log(line),
});

console.log(`\n${report.steps} steps in ${report.minutes.toFixed(1)} minutes`);
for (const [name, count] of Object.entries(report.faults)) console.log(`  ${String(count).padStart(4)} × ${name}`);
for (const { name, samples, early, late } of report.memory) {
  const stride = Math.max(1, Math.floor(samples.length / 20));
  const shown = samples.filter((_, index) => index % stride === 0).join(' ');
  console.log(`resident memory of the ${name}, MB by time: ${shown}`);
  console.log(
    `  median of the second quarter ${early}, of the last ${late}: ${(late / early).toFixed(2)}× (target ≤ 1.1)`,
  );
}
const equal = sameOutcome(report.outcome, report.expected);
console.log(
  equal
    ? `${report.outcome.samples} samples, each once; weights ${report.outcome.weights.slice(0, 16)}… are the undisturbed run's`
    : `LOST SOMETHING: weights ${report.outcome.weights.slice(0, 16)}…, undisturbed ${report.expected.weights.slice(0, 16)}…; samples ${report.outcome.samples} and ${report.expected.samples}`,
);
if (!equal) process.exitCode = 1;
