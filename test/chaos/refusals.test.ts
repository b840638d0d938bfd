import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { AtInstruction, Cluster } from './cluster.ts';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import { root } from './processes.ts';
import type { ProjectOptions } from './project.ts';

const slow: AtInstruction = { op: 'Optimize', sleepMs: 30 };
const options: ProjectOptions = { steps: 12, moe: true, parallel: { data: 2, expert: 2 }, checkpointEvery: 2 };

it('a worker of another version is refused with both named, and the others train', async () => {
  const on = await cluster();
  const copy = join(on.folder, 'other-version');
  mkdirSync(copy);
  cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true });
  for (const name of ['node_modules', 'vendor']) symlinkSync(join(root, name), join(copy, name));
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  writeFileSync(join(copy, 'package.json'), JSON.stringify({ ...manifest, version: '99.0.0-other' }));
  const other = on.worker({ program: [process.execPath, join(copy, 'dist', 'cli', 'main.js')] });
  const run = on.train(on.config(options));
  const named = new RegExp(
    `99\\.0\\.0-other[\\s\\S]*${manifest.version.replaceAll('.', '\\.')}|${manifest.version.replaceAll('.', '\\.')}[\\s\\S]*99\\.0\\.0-other`,
  );
  await on.processes.until('a word on the versions', 20_000, () =>
    [...other.lines, ...run.proc.lines].some((line) => named.test(line)),
  );
  on.workers(2);
  expectUndisturbed(await run.outcome(), await reference(options));
});

it('a worker of another job is never asked', async () => {
  const on = await cluster();
  const stranger = on.worker({ job: 'other' });
  const config = on.config(options);
  const lonely = on.train(config, { args: ['--set', 'recovery.wait_s=3'], job: 'lonely' });
  const { code } = await on.processes.exitOf(lonely.proc, 30_000);
  expect([1, 2, 3]).toContain(code);
  expect(lonely.proc.lines.join('\n')).toMatch(/lonely/);
  expect(stranger.running).toBe(true);
  on.worker({ job: 'other' });
  expectUndisturbed(await on.train(config, { job: 'other' }).outcome(), await reference(options));
});

/** A folder on a disk of its own, whose size can be changed. */
function disk(on: Cluster, size: string): { readonly path: string; resize(size: string): void } {
  const path = join(on.folder, 'disk');
  mkdirSync(path);
  const mount = (options: string) => execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path]);
  mount(`size=${size}`);
  on.onClose(() => execFileSync('umount', ['-l', path]));
  return { path, resize: (to) => void mount(`remount,size=${to}`) };
}

it('a disk that is full at a checkpoint: a warning, and training goes on', async () => {
  const on = await cluster();
  const { path, resize } = disk(on, '150k');
  on.workers(2, { at: [slow] });
  const run = on.train(on.config(options), { args: ['--set', `run.dir=${path}`] });
  const { message } = await run.event('warning', (event) => /ENOSPC|no space/i.test(event.message as string));
  expect(message).toMatch(/checkpoint/i);
  resize('50m');
  expectUndisturbed(await run.outcome(), await reference(options));
  const checkpoints = join(run.of('finished')[0]!.dir as string, 'checkpoints');
  expect(readdirSync(checkpoints).filter((name) => !/^step-\d+$/.test(name))).toEqual([]);
});

it('a disk that is full, if that is to stop the run: a clear error, and the run can go on later', async () => {
  const on = await cluster();
  // Room for one checkpoint, not for two.
  const { path, resize } = disk(on, '260k');
  on.workers(2, { at: [slow] });
  const stop = ['--set', 'train.checkpoint_on_error=stop'];
  const config = on.config(options);
  const run = on.train(config, { args: ['--set', `run.dir=${path}`, '--set', 'run.id=full', ...stop] });
  const { code } = await on.processes.exitOf(run.proc, 30_000);
  expect([1, 3]).toContain(code);
  expect(run.proc.lines.join('\n')).toMatch(/ENOSPC|no space/i);
  resize('50m');
  const again = on.train(config, { args: ['--set', `run.dir=${path}`, '--resume', join(path, 'full')] });
  expectUndisturbed(await again.outcome(), await reference(options));
});
