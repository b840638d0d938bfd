import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'plexus-inspect-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('inspect --drift: modules with bars, or why there are none', async () => {
  writeFileSync(join(folder, 'config.yaml'), 'name: x\n');
  const without = await runCli(['inspect', folder, '--drift']);
  expect(without).toMatchObject({ code: 2, stdout: '' });
  expect(without.stderr).toMatch(/has no drift.json: it is written when the first task .* ends/);
  const drift = {
    tasks: 2,
    modules: [
      { module: 'head', parameters: 1010, between: 0.2, within: 0.1, relative: 0.5 },
      { module: 'layers.0', parameters: 78500, between: 0.05, within: 0.05, relative: 0.01 },
    ],
  };
  writeFileSync(join(folder, 'drift.json'), JSON.stringify(drift));
  const shown = await runCli(['inspect', folder, '--drift']);
  expect(shown).toMatchObject({ code: 0, stderr: '' });
  expect(shown.stdout).toMatch(/^head +1010 +0\.20000 +0\.10000 +50\.00 +█{24} 1\.000$/m);
  expect(shown.stdout).toMatch(/^layers\.0 +78500 +0\.05000 +0\.05000 +1\.00 +█{6} +0\.250$/m);
  expect(JSON.parse((await runCli(['inspect', folder, '--drift', '--json'])).stdout)).toEqual(drift);
  const nothing = await runCli(['inspect', folder]);
  expect(nothing).toMatchObject({ code: 2, stdout: '' });
});
