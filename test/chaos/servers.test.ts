import { setTimeout as delay } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { AtInstruction } from './cluster.ts';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import type { ProjectOptions } from './project.ts';

const slow: AtInstruction = { op: 'Optimize', sleepMs: 40 };
const options = (data: string, more: ProjectOptions = {}): ProjectOptions => ({
  steps: 40,
  moe: true,
  parallel: { data: 2, expert: 2 },
  ...more,
  sections: { comm: { data, lease_s: 5 } },
});

it.each(['nats', 'auto'])('nats-server killed, back after 3 s: links %s', async (data) => {
  const on = await cluster();
  const workers = on.workers(3, { at: [slow] });
  const run = on.train(on.config(options(data)));
  await run.reached(8);
  await on.nats.kill();
  await delay(3000);
  await on.nats.restart();
  expectUndisturbed(await run.outcome(60_000), await reference(options(data)));
  expect(workers.every((worker) => worker.running)).toBe(true);
});

it('a cluster of three servers loses one, then another in its place', async () => {
  const on = await cluster({ nats: { count: 3 } });
  on.workers(3, { at: [slow] });
  const run = on.train(on.config(options('nats', { steps: 80 })));
  await run.reached(8);
  await on.nats.kill(0);
  await run.reached(run.step + 10);
  await on.nats.restart(0);
  await run.reached(run.step + 10);
  await on.nats.kill(1);
  expectUndisturbed(await run.outcome(60_000), await reference(options('nats', { steps: 80 })));
});

it('a server that takes at most 64 KB', async () => {
  const big = { steps: 12, dim: 64, moe: true };
  const on = await cluster({ nats: { maxPayload: 65_536 } });
  const [first] = on.workers(3, { at: [slow] });
  const run = on.train(on.config(options('nats', big)));
  await run.reached(4);
  // Replicas and restored tensors travel in pieces as well.
  await first!.kill();
  expectUndisturbed(await run.outcome(60_000), await reference(options('nats', big)));
});

it('credentials: wrong ones are refused by name, right ones work', async () => {
  const on = await cluster({ nats: { lines: ['authorization { user: plexus, password: right }'] } });
  const config = on.config(options('auto'));
  for (const args of [[], ['--nats-user', 'plexus', '--nats-password', 'wrong']]) {
    const worker = on.worker({ args });
    const run = on.train(config, { args });
    for (const proc of [worker, run.proc]) {
      const { code } = await on.processes.exitOf(proc, 20_000);
      expect(code).toBe(5);
      expect(proc.lines.join('\n')).toMatch(/authori[sz]|credential|log in|login/i);
      expect(proc.lines.join('\n')).not.toMatch(/wrong|node:internal|unhandled/i);
    }
  }
  const args = ['--nats-user', 'plexus', '--nats-password', 'right'];
  on.workers(2, { args });
  expectUndisturbed(await on.train(config, { args }).outcome(), await reference(options('auto')));
});
