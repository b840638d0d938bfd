import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, expect, it } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'plexus-leaks-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('a run leaves no thread, port, timer or listener behind, however it ends', async () => {
  const script = fileURLToPath(new URL('./fixtures/four-endings.mjs', import.meta.url));
  const dist = new URL('../../dist', import.meta.url).href;
  // The process ends by itself, or the time limit kills it and the test fails.
  const { stdout } = await promisify(execFile)(process.execPath, [script, dist, folder], { timeout: 60_000 });
  const last = stdout.trim().split('\n').at(-1) as string;
  const { before, held } = JSON.parse(last) as {
    before: string[];
    held: Record<string, { ending: string; left: string[] }>;
  };
  const endings = Object.fromEntries(Object.entries(held).map(([name, { ending }]) => [name, ending]));
  expect(endings).toEqual({
    completed: 'completed',
    interrupted: 'interrupted',
    abandoned: 'left',
    failed: 'RunFailure',
  });
  for (const { left } of Object.values(held)) expect(left).toEqual(before);
});
