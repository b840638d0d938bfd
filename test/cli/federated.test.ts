import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runCli } from './run-cli.ts';

let cwd: string;
beforeAll(() => {
  cwd = mkdtempSync(join(tmpdir(), 'plexus-cli-federated-'));
  writeFileSync(
    join(cwd, 'tiny.yaml'),
    `seed: 5
model: { name: mlp, args: { hidden: [16] } }
data: { name: mnist, limit: 1450, validation: 0.1724 }
optim: { name: sgd, lr: 0.1, momentum: 0 }
train: { steps: 6, eval_every: 2 }
run: { id: tiny }
scheduler:
  name: fedavg
  clients: 20
  cohort: 5
  local_batch: 12
  threads: 1
  partition: { name: shards }
  client_metrics: { examples: 32 }
  target_accuracy: 0.2
  compression: { name: top-k, ratio: 0.1, values: int8 }
`,
  );
});
afterAll(() => rmSync(cwd, { recursive: true, force: true }));

describe('a federated run on the command line', () => {
  it('speaks of rounds, clients, simulated time and accuracy, and of nothing that it does not have', async () => {
    const { code, stdout, stderr } = await runCli(['train', 'tiny.yaml'], { cwd });
    expect(code).toBe(0);
    expect(stderr).toMatch(/^tiny: 12\.7k parameters, 20 clients \(5 a round\) on 1 thread, onnx/);
    expect(stderr).toContain('who has which data: runs/tiny/partition.svg');
    expect(stderr).toMatch(
      /round 1\/6 {2}loss [\d.]+ {2}[\d.k]+ clients\/s {2}[\d.]+ rounds\/s {2}ETA \d+:\d\d {2}simulated \d+:\d\d/,
    );
    const accuracy = /accuracy +(\d+\.\d\d) %/.exec(stdout)?.[1];
    expect(stderr).toContain(`accuracy ${accuracy} %`);
    expect(stderr).toMatch(/round 6\/6 .*accuracy \d+\.\d\d %/);
    const said = `${stdout}${stderr}`.replace('train.steps', '');
    for (const wrong of [/Infinity|NaN|undefined/, /tok\/s|ex\/s|tokens/, /\bsteps?\b/, /mesh|pipeline|worker/])
      expect(said).not.toMatch(wrong);
    expect(stdout).toMatch(/✓ tiny: 6 rounds in/);
    expect(stdout).toMatch(/of the last round/);
    expect(stdout).toMatch(/median client +\d+\.\d\d % +worst tenth \d+\.\d\d %/);
    expect(stdout).toMatch(/to 20\.00 % +\d +rounds/);
    expect(stdout).toMatch(/from clients +\d+ kB +1\.5 MB to them/);
    expect(stdout).toMatch(/split {3}runs\/tiny\/partition\.svg/);
    expect(existsSync(join(cwd, 'runs', 'tiny', 'partition.svg'))).toBe(true);
    const again = await runCli(['train', '--resume', 'runs/tiny', '--set', 'train.steps=7'], { cwd });
    expect(again.stderr).toContain('continuing after round 6 of 7');
  });

  it('says in the end whom it did without, and what it gave away', async () => {
    const set = (...pairs: string[]) => pairs.flatMap((pair) => ['--set', pair]);
    const half = set('run.id=half', 'scheduler.behaviour={dropout: 0.5}', 'scheduler.quorum=3');
    const dp = set('scheduler.compression={name: none}', 'scheduler.privacy={name: central-dp, noise_multiplier: 1}');
    const { code, stdout } = await runCli(['train', 'tiny.yaml', ...half, ...dp], { cwd });
    expect(code).toBe(0);
    expect(stdout).toMatch(/✓ half: 6 rounds/);
    expect(stdout).toMatch(/not counted +\d of 6 +[012] clients answered, the quorum is 3/);
    expect(stdout).toMatch(/left out +\d+ +\d+ × it left in the middle of the round/);
    expect(stdout).toMatch(/epsilon +\d+\.?\d* +at delta 0\.00001/);
    const none = set('run.id=none', 'scheduler.behaviour={dropout: 1}');
    const never = await runCli(['train', 'tiny.yaml', ...none], { cwd });
    expect(never.stdout).toMatch(/^! none: 6 rounds/m);
    expect(never.stderr).toContain('none of 6 rounds changed the parameters: 0 clients answered, the quorum is 1');
  });

  it('is planned as what it is', async () => {
    const { code, stdout } = await runCli(['plan', 'tiny.yaml'], { cwd });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^fedavg, 6 rounds\n/);
    expect(stdout).toMatch(/clients +20, of which 5 train in a round/);
    expect(stdout).toMatch(/examples +60 each \(shards, shards 2\)/);
    expect(stdout).toMatch(/local work +1 pass in batches of 12: 5 steps/);
    expect(stdout).toMatch(/51 kB to a client, 2\.6 kB from it \(top-k, ratio 0\.1, values int8/);
    const { federated } = JSON.parse((await runCli(['plan', 'tiny.yaml', '--json'], { cwd })).stdout);
    expect(federated).toMatchObject({ clients: 20, width: 5, parameters: 12_730, bytes_to_client: 4 * 12_730 });
  });
});
