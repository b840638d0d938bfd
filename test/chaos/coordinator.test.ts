import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, it } from 'vitest';
import type { AtInstruction } from './cluster.ts';
import { outcomeOf } from './cluster.ts';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import type { ProjectOptions } from './project.ts';

const slow: AtInstruction = { op: 'Optimize', sleepMs: 30 };
const LEASE = ['--lease', '1.5'];
const options: ProjectOptions = {
  steps: 40,
  moe: true,
  checkpointEvery: 10,
  parallel: { data: 2, expert: 2 },
  sections: { comm: { lease_s: 1.5 } },
};

it('killed and started again: nobody is lost, nothing is done twice', async () => {
  const on = await cluster();
  const workers = on.workers(2, { args: LEASE, at: [slow] });
  const config = on.config(options);
  const first = on.train(config);
  await first.reached(8);
  await first.proc.kill();
  const second = on.train(config);
  expectUndisturbed(await second.outcome(), await reference(options));
  // It went on: from memory, not from the start or from a checkpoint.
  expect(second.of('step')[0]!.step).toBeGreaterThan(8);
  expect(second.of('lost')).toEqual([]);
  expect(workers.every((worker) => worker.running)).toBe(true);
});

it('a standby takes over', async () => {
  const on = await cluster();
  on.workers(2, { args: LEASE, at: [slow] });
  const config = on.config(options);
  const first = on.train(config);
  await first.reached(3);
  const standby = on.train(config, { args: ['--standby'] });
  await first.reached(12);
  expect(standby.of('step')).toEqual([]);
  await first.proc.kill();
  expectUndisturbed(await standby.outcome(), await reference(options));
  expect(standby.of('step')[0]!.step).toBeGreaterThan(12);
});

it('a standby of another machine takes over from what lies on NATS', async () => {
  const on = await cluster();
  on.workers(2, { args: LEASE, at: [slow] });
  const args = ['--set', 'run.store=nats'];
  const first = on.train(on.config(options), { args });
  await first.event('checkpointed');
  // (Each config has a folder of runs of its own.)
  const standby = on.train(on.config(options), { args: [...args, '--standby'] });
  await standby.event('warning', ({ message }) => /standing by/.test(message as string));
  await first.reached(13);
  await first.proc.kill();
  const dir = first.of('started')[0]!.dir as string;
  rmSync(dirname(dir), { recursive: true });
  expectUndisturbed(await standby.outcome(), await reference(options));
  expect(standby.of('started')[0]!.dir).not.toBe(dir);
  expect(standby.of('step')[0]!.step).toBeGreaterThanOrEqual(11);
});

it('frozen until another took over, then thawed: it gives way', async () => {
  const on = await cluster();
  on.workers(2, { args: LEASE, at: [slow] });
  const config = on.config(options);
  const first = on.train(config);
  await first.reached(8);
  const standby = on.train(config, { args: ['--standby'] });
  first.proc.signal('SIGSTOP');
  await standby.event('step');
  first.proc.signal('SIGCONT');
  expectUndisturbed(await standby.outcome(), await reference(options));
  const { code } = await on.processes.exitOf(first.proc, 20_000);
  expect(code).not.toBe(0);
  expect(first.of('finished')).toEqual([]);
});

it('two at once: the second is refused, the first is not disturbed', async () => {
  const on = await cluster();
  on.workers(2, { args: LEASE, at: [slow] });
  const config = on.config(options);
  const first = on.train(config);
  await first.reached(5);
  const second = on.train(config);
  const { code } = await on.processes.exitOf(second.proc, 20_000);
  expect(code).not.toBe(0);
  expect(second.proc.lines.join('\n')).toMatch(/is led by/);
  const outcome = await first.outcome();
  expectUndisturbed(outcome, await reference(options));
  expect(first.of('generation')).toHaveLength(1);
  expect(outcomeOf(first.of('finished')[0]!.dir as string)).toEqual(outcome);
});

it('coordinator and a worker killed together', async () => {
  const on = await cluster();
  const workers = on.workers(3, { args: LEASE, at: [slow] });
  const config = on.config(options);
  const first = on.train(config);
  await first.reached(8);
  workers[0]!.signal('SIGKILL');
  workers[1]!.signal('SIGKILL');
  await first.proc.kill();
  on.worker({ args: LEASE, at: [slow] });
  const second = on.train(config);
  expectUndisturbed(await second.outcome(), await reference(options));
});
