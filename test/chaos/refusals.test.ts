import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { cluster, expectUndisturbed, reference } from './in-test.ts';
import { root } from './processes.ts';
import type { ProjectOptions } from './project.ts';

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

it('a disk that is full at a checkpoint: a clear error, whole checkpoints only, and the run can go on', async () => {
  const on = await cluster();
  const disk = join(on.folder, 'disk');
  mkdirSync(disk);
  const mount = (size: string, ...flags: string[]) =>
    execFileSync('mount', [
      ...flags,
      '-t',
      'tmpfs',
      '-o',
      `${flags.length > 0 ? 'remount,' : ''}size=${size}`,
      'tmpfs',
      disk,
    ]);
  mount('400k');
  on.onClose(() => execFileSync('umount', [disk]));
  const big = { ...options, dim: 32 };
  on.workers(2);
  const config = on.config(big);
  const run = on.train(config, { args: ['--set', `run.dir=${disk}`, '--set', 'run.id=full'] });
  const { code } = await on.processes.exitOf(run.proc, 30_000);
  expect([1, 3]).toContain(code);
  expect(run.proc.lines.join('\n')).toMatch(/ENOSPC|no space/i);
  mount('50m', '-o', 'remount');
  const again = on.train(config, { args: ['--set', `run.dir=${disk}`, '--resume', join(disk, 'full')] });
  expectUndisturbed(await again.outcome(), await reference(big));
});
