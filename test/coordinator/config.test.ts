import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { STRATEGIES, strategyHere } from '../../src/coordinator/config/elsewhere.ts';
import {
  ConfigError,
  formatConfig,
  prepareQuietly,
  resolveConfig,
  schedulerNames,
  settingsWithoutEffect,
} from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const folder = mkdtempSync(join(tmpdir(), 'plexus-resolve-'));
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, text: string): string {
  const file = join(folder, name);
  writeFileSync(file, text);
  return file;
}

function messageOf(text: string, overrides: string[] = []): string {
  try {
    resolveConfig(write('bad.yaml', text), overrides);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('the config was accepted');
}

const bad: readonly (readonly [title: string, text: string, parts: readonly string[], overrides?: string[]])[] = [
  ['a misspelt section', 'trian:\n  steps: 3\n', ['bad.yaml:1:1', "unknown key 'trian'", "did you mean 'train'?"]],
  ['a misspelt key', 'train:\n  step: 3\n', [':2:3', "did you mean 'steps'?", 'eval_every']],
  ['a model file as a name', 'model:\n  name: ./mine.ts\n', [':2:9', "a file is given by 'model.file'"]],
  ['a file as the name of a dataset', 'data: {name: mine.ts}\n', [':1:14', 'known: ']],
  ['an unknown model', 'model:\n  name: transfomer-lm\n', [':2:9', "did you mean 'transformer-lm'?"]],
  [
    'an unknown argument of a model',
    'model:\n  name: transformer-lm\n  args: {layres: 3}\n',
    [':3:10', "did you mean 'layers'?"],
  ],
  ['a model with name and file', 'model: {name: cnn, file: x.ts}\n', ["unknown key 'file'"]],
  [
    'a model file that is not there',
    'model: {file: none.ts}\n',
    ['there is no file', 'none.ts', 'relative to the config'],
  ],
  ['an unknown dataset', 'data: {name: mobydick}\n', [':1:14', "did you mean 'moby-dick'?"]],
  ['a dataset file that is not there', 'data: {name: text, path: x.txt}\n', ['there is no file', 'x.txt']],
  ['an unknown optimizer', 'optim: {name: adm}\n', ["did you mean 'adam'?"]],
  ['an unknown scheduler', 'scheduler: {name: snyc}\n', ["did you mean 'sync'?"]],
  [
    'a key of another framework',
    'scheduler: {rounds: 3}\n',
    ["unknown key 'rounds' in 'scheduler'", "that is 'train.steps' here: a step of a federated run is a round"],
  ],
  [
    'one that could be misspelt as well',
    'batch-size: 3\n',
    ["unknown key 'batch-size'", "that is 'batch.global' here"],
  ],
  ['an unknown schedule', 'parallel: {schedule: gpip}\n', ["'parallel.schedule'", 'gpipe']],
  [
    'a microbatch that does not divide',
    'batch:\n  global: 10\n  micro: 4\n',
    [':3:10', '4 does not divide 10', 'set batch.micro'],
  ],
  ['too few microbatches', 'batch: {global: 8, micro: 8}\nparallel:\n  data: 2\n', [':3:9', 'parallel.data 2']],
  ['experts that do not divide the data axis', 'parallel:\n  data: 4\n  expert: 3\n', [':3:11', '3 does not divide 4']],
  ['an unknown engine', 'engine: {kind: torch}\n', ['onnx, tfjs']],
  ['a negative deadline', 'comm: {deadline_s: -1}\n', ['more than 0']],
  ['a run id with a slash', 'run: {id: a/b}\n', ['letters, digits']],
  ['a mesh set by flag', 'name: x\n', ['--set parallel.expert=3', 'does not divide'], ['parallel.expert=3']],
];

describe('resolveConfig refuses', () => {
  for (const [title, text, parts, overrides] of bad)
    it(title, () => {
      const message = messageOf(text, overrides);
      for (const part of parts) expect(message).toContain(part);
    });
});

describe('what keys of other frameworks are called here', () => {
  const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  const reference = read('docs/config.md');
  const names = [...read('src/coordinator/config/elsewhere.ts').matchAll(/'([a-z_]+(?:\.[a-z_]+)+)'/g)].map(
    ([, name]) => name,
  );
  it.each([...new Set(names)])('%s is a key', (name) => expect(reference).toContain(`\`${name}\``));
});

describe('what strategies of other frameworks are called here', () => {
  it.each([
    ['FedOpt', /that is 'fedadam', 'fedyogi', 'fedadagrad' or 'fedavgm' here/],
    // (Privacy must not be lost to a name.)
    ['DP-SGD', /'gossip' here if it is decentralised SGD; if it is private SGD, .*central-dp/],
    ['D-PSGD', /that is 'gossip' here/],
    ['FedXgbBagging', /that is nothing here: trees/],
    ['FaultTolerantFedAvg', /that is 'fedavg' here/],
    // (What is near in spelling would drop the privacy.)
    ['DPFedAvgAdaptive', /scheduler\.privacy: \{ name: central-dp, noise_multiplier: 1, clipping: adaptive \}/],
    ['SecAggPlus', /scheduler\.secure_aggregation: \{ name: secagg\+ \}/],
    ['FedAvg', /did you mean 'fedavg'/],
  ])('%s', (name, here) => {
    expect(() => resolveConfig({ scheduler: { name } })).toThrow(here);
  });

  it.each(STRATEGIES)('%j are names and sections that there are', (names, here) => {
    const said = [...here.matchAll(/'([^']+)'/g)].map(([, text]) => text as string);
    for (const text of said) {
      const section = /^scheduler\.(\w+): (\{.*\})$/.exec(text);
      const file = write(
        'hint.yaml',
        `scheduler: { name: ${section ? `fedavg, ${section[1]}: ${section[2]}` : text} }\n`,
      );
      expect(resolveConfig(file).scheduler.name).toBe(section ? 'fedavg' : text);
    }
    for (const name of names) {
      expect(schedulerNames()).not.toContain(name);
      expect(strategyHere(name.toUpperCase())).toBe(here);
    }
  });
});

describe('resolveConfig', () => {
  it('gives every key a value', () => {
    const config = resolveConfig({});
    expect(config.train.steps).toBe(100);
    expect(config.parallel).toMatchObject({ data: 1, pipeline: 1, expert: 1 });
    expect(config.scheduler).toEqual({ name: 'sync' });
    expect(config.data.name).toBe('moby-dick');
  });

  it('takes paths of a file relative to it, and paths of a flag relative to the working directory', () => {
    writeFileSync(join(folder, 'corpus.txt'), 'text');
    const file = write('paths.yaml', 'data: {name: text, path: corpus.txt}\n');
    expect(resolveConfig(file).data).toMatchObject({ path: join(folder, 'corpus.txt') });
    expect(resolveConfig(file, ['data.path=package.json']).data).toMatchObject({
      path: join(process.cwd(), 'package.json'),
    });
  });

  it('returns a resolved config as it is, and can change it further', () => {
    const config = resolveConfig({ train: { steps: 3 } });
    expect(resolveConfig(config)).toBe(config);
    const changed = resolveConfig(config, ['seed=5']);
    expect(changed).toMatchObject({ seed: 5, train: { steps: 3 } });
    expect(changed.origin.given.has('seed')).toBe(true);
  });

  it('writes a config that reads back as itself, every section documented', () => {
    const config = resolveConfig({
      model: { name: 'transformer-lm', args: { moe: { experts: 8 } } },
      remat: { 'blocks.0': 'full' },
    });
    const text = formatConfig(config);
    const { origin, ...values } = resolveConfig(write('full.yaml', text));
    const { origin: before, ...expected } = config;
    expect(before.file).toBeNull();
    expect(origin.file).not.toBeNull();
    expect(values).toEqual(expected);
    for (const line of text.split('\n'))
      if (/^ {2}\w+: [^\s[{]/.test(line) && !/name/.test(line)) expect(line).toMatch(/ # ./);
  });

  it('knows settings that change nothing', () => {
    const config = resolveConfig({
      train: { eval_microbatches: 3, keep_last: 5 },
      data: { name: 'mnist' },
      generate: { top_k: 3 },
    });
    expect(settingsWithoutEffect(config)).toEqual([
      expect.stringContaining('train.eval_microbatches has no effect'),
      expect.stringContaining('train.keep_last has no effect'),
      expect.stringContaining('generate has no effect'),
    ]);
    expect(settingsWithoutEffect(resolveConfig({}))).toEqual([]);
  });
});

describe('preparing a run refuses', () => {
  const prepared = (text: string) => prepareQuietly(resolveConfig(write('prepare.yaml', text)));

  it('a model that refuses its arguments, at its place in the config', async () => {
    const text = 'name: x\nmodel:\n  name: transformer-lm\n  args: {dim: 128, heads: 3}\n';
    await expect(prepared(text)).rejects.toThrow(/prepare\.yaml:3:3: .*dim 128 is not a multiple of heads 3/);
  });

  it('a model that does not suit the data', async () => {
    await expect(prepared('model: {name: transformer-lm}\ndata: {name: mnist, limit: 100}\n')).rejects.toThrow(
      /prepare\.yaml:1:8: .*transformer-lm needs text/,
    );
  });

  it('a mesh that the model cannot fill', async () => {
    await expect(prepared('parallel: {pipeline: 40}\n')).rejects.toThrow(/pipeline is 40 and the model has \d+ layers/);
  });

  it('text that is shorter than one example', async () => {
    writeFileSync(join(folder, 'short.txt'), 'too short');
    await expect(prepared('data: {name: text, path: short.txt}\n')).rejects.toThrow(/data\.context/);
  });
});
