import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { AtInstruction, Cluster, Event, Training } from './cluster.ts';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import type { ProjectOptions } from './project.ts';

/** Steps take a while without keeping the machine busy, so that there is something to disturb. */
const slow = (sleepMs = 30): AtInstruction => ({ op: 'Optimize', sleepMs });
const LEASE = ['--lease', '1.5'];
const elastic = (options: ProjectOptions): ProjectOptions => ({ ...options, sections: { comm: { lease_s: 1.5 } } });

const meshesOf = (run: Training): unknown[] => run.of('generation').map(({ mesh }) => (mesh as { data: number }).data);

/** Waits for `plexus train` to see its first workers and starts it with the mesh that the config names. */
async function start(on: Cluster, options: ProjectOptions, args: readonly string[] = []): Promise<Training> {
  return on.train(on.config(options), { args });
}

it('killed in every phase of a step, replaced each time: dense, data-parallel', async () => {
  const options = elastic({ steps: 24, parallel: { data: 3 } });
  const on = await cluster();
  const at = on.once([
    { op: 'LoadBatch', step: 2 },
    { op: 'Forward', step: 5, afterMs: 0 },
    { op: 'Backward', step: 8, nth: 1 },
    { op: 'AllReduce', step: 11, afterMs: 1 },
    { op: 'Optimize', step: 14 },
  ]);
  const workers = on.keep(4, { args: LEASE, at: [slow(), ...at] });
  const run = await start(on, options);
  expectUndisturbed(await run.outcome(), await reference(options));
  workers.stop();
  expect(on.kills().map((line) => line.split(' ').at(-1))).toEqual([
    'LoadBatch',
    'Forward',
    'Backward',
    'AllReduce',
    'Optimize',
  ]);
  expect(run.of('recovered').length).toBeGreaterThanOrEqual(3);
});

it('killed in every phase of a step, replaced each time: experts and stages, zero bubble', async () => {
  const options = elastic({
    steps: 24,
    moe: true,
    parallel: { data: 2, pipeline: 2, expert: 2, schedule: 'zero-bubble' },
  });
  const on = await cluster();
  const at = on.once([
    { op: 'Send', step: 2, afterMs: 0 },
    { op: 'AllToAll', step: 5, nth: 1, afterMs: 0 },
    { op: 'Recv', step: 8, afterMs: 1 },
    { op: 'BackwardInput', step: 11 },
    { op: 'BackwardWeight', step: 14 },
    { op: 'AllGather', step: 17, afterMs: 0 },
  ]);
  const workers = on.keep(5, { args: LEASE, at: [slow(), ...at] });
  const run = await start(on, options);
  expectUndisturbed(await run.outcome(60_000), await reference(options));
  workers.stop();
  expect(on.kills()).toHaveLength(6);
  // From replicas in memory: never further back than the step before the one that was disturbed.
  for (const { step } of run.of('recovered')) expect(step).toBeGreaterThan(0);
});

it('without a spare the mesh shrinks, and grows when somebody comes', async () => {
  const options = elastic({ steps: 100, moe: true, parallel: { data: 4, expert: 2 } });
  const on = await cluster();
  const [first, second] = on.workers(4, { args: LEASE, at: [slow()] });
  const run = await start(on, options, ['--min-workers', '1']);
  await run.reached(5);
  await first!.kill();
  await run.event('recovered');
  const at = run.step;
  await run.reached(at + 3);
  await second!.kill();
  await run.event('recovered', ({ step }) => (step as number) > at);
  await run.reached(run.step + 3);
  on.workers(2, { args: LEASE, at: [slow()] });
  await run.event(
    'generation',
    ({ generation, mesh }) => (generation as number) > 2 && (mesh as { data: number }).data === 4,
  );
  expectUndisturbed(await run.outcome(), await reference(options));
  expect(Math.min(...(meshesOf(run) as number[]))).toBeLessThan(4);
  expect(meshesOf(run).at(-1)).toBe(4);
});

it('killed during start, and again during recovery', async () => {
  const options = elastic({ steps: 20, moe: true, parallel: { data: 3 } });
  const on = await cluster();
  const workers = on.keep(4, { args: LEASE, at: [slow()] });
  const run = await start(on, options);
  const kill = () => {
    const living = workers.running();
    living[Math.floor(living.length / 2)]!.signal('SIGKILL');
  };
  await run.event('generation');
  kill();
  await run.reached(4);
  const before = run.events.length;
  kill();
  await run.event('lost', undefined, 30_000, before);
  kill();
  const again = await run.event('generation', undefined, 30_000, before);
  if (!run.of('recovered').some(({ at }) => at > (again as Event).at)) kill();
  expectUndisturbed(await run.outcome(60_000), await reference(options));
  workers.stop();
});

it('killed while checkpoints are written', async () => {
  const options = elastic({ steps: 24, moe: true, parallel: { data: 2, expert: 2 }, checkpointEvery: 2 });
  const on = await cluster();
  const workers = on.keep(3, { args: LEASE, at: [slow()] });
  const run = await start(on, options);
  for (const step of [4, 10, 16]) {
    await run.reached(step);
    workers.running()[0]!.signal('SIGKILL');
  }
  expectUndisturbed(await run.outcome(), await reference(options));
  workers.stop();
  const dir = run.of('finished')[0]!.dir as string;
  const names = readdirSync(join(dir, 'checkpoints'));
  expect(names).toContain('step-24');
  expect(names.filter((name) => !/^step-\d+$/.test(name))).toEqual([]);
});

it('all workers killed at once: from the newest checkpoint, with new ones', async () => {
  const options = elastic({ steps: 20, moe: true, parallel: { data: 2, expert: 2 }, checkpointEvery: 4 });
  const on = await cluster();
  const first = on.workers(2, { args: LEASE, at: [slow(60)] });
  const run = await start(on, options);
  await run.event('checkpointed', ({ step }) => (step as number) >= 4);
  for (const worker of first) worker.signal('SIGKILL');
  await run.event('waiting', ({ have }) => have === 0);
  on.workers(2, { args: LEASE, at: [slow(60)] });
  expectUndisturbed(await run.outcome(), await reference(options));
});

it('frozen for longer than the lease, then thawed: back as a spare that later takes part', async () => {
  const options = elastic({ steps: 110, moe: true, parallel: { data: 2, expert: 2 } });
  const on = await cluster();
  const [frozen, other] = on.workers(3, { args: LEASE, at: [slow(100)] });
  const run = await start(on, options);
  await run.reached(5);
  // Spare or not, whoever is frozen must disturb nothing when it comes back.
  for (const worker of [frozen!, other!]) {
    const before = run.events.length;
    worker.signal('SIGSTOP');
    await delay(3000);
    worker.signal('SIGCONT');
    await run.event('joined', undefined, 30_000, before);
  }
  expectUndisturbed(await run.outcome(60_000), await reference(options));
});
