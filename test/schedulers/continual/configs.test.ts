import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { complete, type RunEvent, resolveConfig, train } from '../../../src/index.ts';

const dir = mkdtempSync(join(tmpdir(), 'plexus-continual-configs-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const speeches = join(dir, 'speeches');
mkdirSync(speeches);
for (const year of [1800, 1840, 1870, 1910, 1960])
  writeFileSync(join(speeches, `${year}_some_one_r.txt`), `Fellow citizens of the year ${year}, `.repeat(300));

/** What makes a config quick, by its data. */
const quick: Readonly<Record<string, readonly string[]>> = {
  mnist: ['data.limit=1000', 'data.validation=0.2', 'train.eval_split=validation'],
  sotu: [`data.path=${speeches}`, 'data.validation=0.2', 'model.args.dim=16'],
  'fashion-mnist': ['data.limit=1000', 'data.validation=0.2', 'train.eval_split=validation'],
};

const files = readdirSync('configs/continual').filter(
  (file) => resolveConfig(`configs/continual/${file}`).scheduler.name === 'continual',
);

describe('configs in configs/continual/', () => {
  it.each(files)('%s says what it shows in two lines, and trains', async (file) => {
    const path = `configs/continual/${file}`;
    const text = readFileSync(path, 'utf8');
    expect(text).toMatch(/^# .*\n# .*\nname: /);
    expect(text).toContain(`name: ${file.replace('.yaml', '')}\n`);
    const { name } = resolveConfig(path).data;
    const config = resolveConfig(path, [...(quick[name] as string[]), `run.dir=${dir}`]);
    const events: RunEvent[] = [];
    const { summary } = await complete(train(config), (event) => events.push(event));
    const tasks = events.filter(({ type }) => type === 'task').length;
    expect(summary?.accuracy_matrix).toHaveLength(tasks);
    expect(summary?.accuracy).toBeGreaterThan(0.1);
  });
});
