import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunSummary } from '../../src/index.ts';
import { writeClasses } from './continual/table.ts';

/** A copy of the sources to which the page's files are added: what a reader has who does what it says. */
const copy = mkdtempSync(join(tmpdir(), 'plexus-add-'));
afterAll(() => rmSync(copy, { recursive: true, force: true }));

const page = readFileSync('docs/add-a-strategy.md', 'utf8');
/** Code blocks that begin with the file that they are for. */
const blocks = [...page.matchAll(/```\w+\n(?:\/\/|#) (\S+)\n(.*?)```/gs)].map(([, file = '', code = '']) => ({
  file,
  code,
}));
const codeOf = (file: string): string => blocks.find((block) => block.file === file)?.code ?? '';

/** Runs what the copy exports in a process of its own (worker threads would inherit `--eval`, so from a file). */
function inCopy(program: string, argument: unknown): string {
  writeFileSync(join(copy, 'run.mjs'), program);
  const { stdout, stderr, status } = spawnSync(process.execPath, ['run.mjs', JSON.stringify(argument)], {
    cwd: copy,
    encoding: 'utf8',
  });
  expect(status, stderr).toBe(0);
  return stdout;
}

const run = (configs: readonly object[]): RunSummary[] =>
  inCopy(
    `import { complete, resolveConfig, train } from './dist/index.js';
    for (const config of JSON.parse(process.argv[2]))
      console.log(JSON.stringify((await complete(train(resolveConfig(config)))).summary));`,
    configs,
  )
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as RunSummary);

beforeAll(() => {
  cpSync('src', join(copy, 'src'), { recursive: true });
  for (const file of ['package.json', 'tsconfig.json', 'tsconfig.build.json']) cpSync(file, join(copy, file));
  for (const folder of ['node_modules', 'vendor']) symlinkSync(resolve(folder), join(copy, folder));
  for (const { file, code } of blocks.filter(({ file }) => file.endsWith('.ts'))) {
    const path = join(copy, file);
    mkdirSync(dirname(path), { recursive: true });
    if (existsSync(path)) appendFileSync(path, code);
    else writeFileSync(path, code);
  }
  const { status, stdout } = spawnSync('npx', ['tsc', '-p', 'tsconfig.build.json'], { cwd: copy, encoding: 'utf8' });
  expect(status, stdout).toBe(0);
  writeClasses(join(copy, 'classes.csv'));
}, 120_000);

describe('docs/add-a-strategy.md', () => {
  const base = {
    run: { dir: join(copy, 'runs') },
    model: { name: 'mlp', args: { hidden: [8, 8] } },
    data: { name: 'csv', path: join(copy, 'classes.csv'), label: 'label', validation: 0.2 },
    optim: { name: 'sgd', lr: 0.1, momentum: 0, clip_norm: null },
  };

  it('adds a continual strategy in about 40 lines, which forgets less and has the same bits on two workers', () => {
    const file = codeOf('src/schedulers/continual/strategies/l2-anchor.ts');
    expect(file.trim().split('\n').length).toBeLessThanOrEqual(40);
    const config = (strategy: object, others: object = {}) => ({
      ...base,
      batch: { global: 8, micro: 4 },
      scheduler: { name: 'continual', epochs: 3, scenario: { stream: { name: 'split', tasks: 2 } }, strategy },
      ...others,
    });
    const anchored = { name: 'l2-anchor', strength: 5 };
    const [naive, one, two] = run([
      config({ name: 'naive' }),
      config(anchored),
      config(anchored, { parallel: { data: 2 } }),
    ]) as [RunSummary, RunSummary, RunSummary];
    expect(one.forgetting).toBeLessThan((naive.forgetting as number) - 0.3);
    // Nothing is held in the first task; two slots are kept for each number.
    expect(one.accuracy_matrix?.[0]).toEqual(naive.accuracy_matrix?.[0]);
    expect(one.tasks?.[0]?.memory.slots).toBe(2 * (one.tasks?.[0]?.memory.parameters as number));
    expect(two.weights_sha256).toBe(one.weights_sha256);
    // The page's config names what there is.
    writeFileSync(join(copy, 'l2-anchor.yaml'), codeOf('l2-anchor.yaml'));
    inCopy("import { resolveConfig } from './dist/index.js'; resolveConfig('l2-anchor.yaml');", null);
  }, 60_000);

  it('adds a federated one, whose first round is that of FedAvg and later ones are shorter', () => {
    const config = (name: string, rounds: number, own: object = {}) => ({
      ...base,
      train: { steps: rounds },
      scheduler: { name, clients: 6, cohort: 3, local_batch: 8, threads: 1, ...own },
    });
    const [once, onceDecayed, twice, twiceDecayed, undecayed] = run([
      config('fedavg', 1),
      config('fedavg-decay', 1),
      config('fedavg', 2),
      config('fedavg-decay', 2),
      config('fedavg-decay', 2, { decay: 0 }),
    ]).map(({ weights_sha256: weights }) => weights);
    expect(onceDecayed).toBe(once);
    expect(twiceDecayed).not.toBe(twice);
    expect(undecayed).toBe(twice);
  }, 60_000);
});
