// What a round takes with real clients: ten processes over a real NATS server, all on this machine, MLP 784-200-10 (159,010 parameters),
// each with 50 examples of MNIST (5 steps of 10), plain and with secure aggregation.
//   npm run bench -- federated/deployed [--rounds=40] [--runs=3] [--examples=50]
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NatsServers } from '../../test/chaos/nats.ts';
import { builtCli, Processes } from '../../test/chaos/processes.ts';
import { timing } from '../engine/stats.ts';
import { flag, printHeading } from '../scaling/table.ts';

const CLIENTS = 10;
/** Rounds that are not counted: code is compiled in them. */
const WARM = 8;
const rounds = flag('rounds', 40);
const examples = flag('examples', 50);

const processes = new Processes();
const folder = mkdtempSync(join(tmpdir(), 'plexus-deployed-'));
const kinds = [
  { name: 'plain', secure: 'null' },
  { name: 'secagg+', secure: '{ name: secagg+ }' },
] as const;
const config = (secure: string) => `
name: bench
seed: 1
model: { name: mlp, args: { hidden: [200] } }
data: { name: mnist, validation: 0, limit: ${CLIENTS * examples} }
optim: { name: sgd, lr: 0.05, momentum: 0 }
train: { steps: ${WARM + rounds}, eval_split: test, eval_every: 0, checkpoint_every: 0 }
scheduler:
  name: fedavg
  clients: ${CLIENTS}
  cohort: ${CLIENTS}
  quorum: ${CLIENTS}
  local_batch: 10
  client_metrics: { clients: 0 }
  secure_aggregation: ${secure}
`;

printHeading(`rounds of ${CLIENTS} client processes x 159,010 parameters over NATS, ${examples} examples each`);
try {
  const { url } = await NatsServers.start(processes, folder);
  for (let part = 1; part <= CLIENTS; part++)
    processes.start(
      `client ${part}`,
      [...builtCli, 'client', '--nats', url, '--data', 'mnist', '--part', `${part}/${CLIENTS}`],
      { cwd: folder, env: { XDG_STATE_HOME: join(folder, 'state') } },
    );
  const samples = new Map<string, number[]>(kinds.map(({ name }) => [name, []]));
  // In turns, so that whatever else the machine does hits both.
  for (let run = 0; run < flag('runs', 3); run++)
    for (const { name, secure } of kinds) {
      const file = join(folder, `${name}.yaml`);
      const into = join(folder, `${name}-${run}`);
      writeFileSync(file, config(secure));
      const command = ['train', file, '--nats', url, '--min-clients', `${CLIENTS}`, '--set', `run.dir=${into}`];
      const server = processes.start(`server of ${name}`, [...builtCli, ...command], { cwd: folder });
      const { code } = await processes.exitOf(server, 300_000);
      if (code !== 0) throw new Error(`the run failed:\n${processes.describe()}`);
      const [id] = readdirSync(into) as [string];
      const lines = readFileSync(join(into, id, 'metrics.jsonl'), 'utf8')
        .trim()
        .split('\n');
      for (const line of lines.slice(WARM)) samples.get(name)?.push((JSON.parse(line) as { step_ms: number }).step_ms);
    }
  const plain = timing(samples.get('plain') ?? []);
  for (const [name, all] of samples) {
    const { median, min, max } = timing(all);
    console.log(`${name.padEnd(10)} ${median.toFixed(1)} ms a round (${min.toFixed(1)}-${max.toFixed(1)})`);
    if (name === 'plain') continue;
    const ratio = median / plain.median;
    console.log(
      `  ${name} / plain, medians  ${ratio.toFixed(2)}x (fastest rounds ${(min / plain.min).toFixed(2)}x)  target <= 3: ${ratio <= 3 ? 'met' : 'NOT met'}`,
    );
  }
} finally {
  await processes.close();
  rmSync(folder, { recursive: true, force: true });
}
