import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, type RunEvent, resolveConfig, train } from '../../../src/index.ts';
import { digitsCsv } from '../../data/digits-csv.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-federated-configs-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const files = ['digits-csv', 'dp', 'fedavg-mnist', 'fedavgm', 'fedbuff', 'gossip', 'krum', 'scaffold', 'secagg'].map(
  (name) => `${name}.yaml`,
);

describe('configs in configs/federated/', () => {
  it.each(files)('%s says how to run it, and trains', async (file) => {
    const path = `configs/federated/${file}`;
    expect(readFileSync(path, 'utf8')).toContain(`plexus train ${path}`);
    const config = resolveConfig(path, [
      'train.steps=2',
      'train.eval_every=0',
      ...(file === 'digits-csv.yaml' ? [] : ['data.limit=2000']),
      'scheduler.threads=1',
      `run.dir=${dir}`,
    ]);
    const events: RunEvent[] = [];
    const { summary } = await complete(train(config), (event) => events.push(event));
    expect(events.filter(({ type }) => type === 'warning')).toEqual([]);
    expect(summary?.steps).toBe(2);
    expect(summary?.accuracy).toBeGreaterThan(0.1);
  });

  it('digits.csv is made of the images that it says', async () => {
    await expect(await digitsCsv('test', 0, 900)).toMatchFileSnapshot(resolve('configs/federated/digits.csv'));
  });
});
