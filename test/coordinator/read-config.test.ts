import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { ConfigError, formatYaml, readConfig } from '../../src/coordinator/config/index.ts';

const folder = mkdtempSync(join(tmpdir(), 'plexus-config-'));
afterAll(() => rmSync(folder, { recursive: true }));

const schema = z.strictObject({
  name: z.string().min(1).default('run').describe('what it is called'),
  seed: z.int().min(0).default(0).describe('seed of everything random'),
  parallel: z
    .strictObject({
      data: z.int().min(1).default(1).describe('data-parallel replicas'),
      schedule: z.enum(['gpipe', '1f1b']).default('1f1b').describe('order of microbatches'),
    })
    .prefault({}),
  optim: z
    .discriminatedUnion('name', [
      z.strictObject({ name: z.literal('sgd'), lr: z.number().positive().default(0.1).describe('learning rate') }),
      z.strictObject({ name: z.literal('adam'), lr: z.number().default(0.001), beta1: z.number().default(0.9) }),
    ])
    .default({ name: 'sgd', lr: 0.1 }),
  remat: z.union([z.enum(['none', 'full']), z.record(z.string(), z.enum(['none', 'full']))]).default('none'),
  layers: z.array(z.strictObject({ width: z.int() })).default([]),
});

function issuesOf(text: string, overrides: string[] = []): ConfigError {
  const file = join(folder, 'c.yaml');
  writeFileSync(file, text);
  try {
    readConfig(schema, file, overrides);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('the config was accepted');
}

const bad: readonly (readonly [title: string, text: string, parts: readonly string[], overrides?: string[]])[] = [
  [
    'an unknown key',
    'name: a\nparallell:\n  data: 2\n',
    ['c.yaml:2:1', "unknown key 'parallell'", 'parallell:', "did you mean 'parallel'?", 'keys: name, seed'],
  ],
  [
    'an unknown nested key',
    'parallel:\n  data: 2\n  shedule: gpipe\n',
    [':3:3', "'shedule' in 'parallel'", "did you mean 'schedule'?", 'data, schedule'],
  ],
  ['a key in camel case', 'parallel: {Data: 2}\n', [':1:12', "did you mean 'data'?"]],
  [
    'a wrong type',
    'parallel:\n  data: two\n',
    [':2:9', "'parallel.data' must be a number", "the text 'two'", 'data-parallel replicas'],
  ],
  ['a fraction where a whole number is due', 'seed: 1.5\n', [':1:7', "'seed' must be a whole number", '1.5']],
  ['a value out of range', 'parallel:\n  data: 0\n', [':2:9', 'at least 1', 'but is 0']],
  ['an unknown choice', 'parallel:\n  schedule: 1fb1\n', [':2:13', 'gpipe, 1f1b', "did you mean '1f1b'?"]],
  ['a section that is a value', 'parallel: 4\n', [':1:11', "'parallel' must be a section, but is 4"]],
  [
    'an unknown variant',
    'optim:\n  name: adma\n  lr: 1\n',
    [':2:9', "'optim.name' is the text 'adma'", "did you mean 'adam'?", 'sgd, adam'],
  ],
  [
    'a key of another variant',
    'optim:\n  name: sgd\n  beta1: 0.5\n',
    [':3:3', "unknown key 'beta1' in 'optim'", 'name, lr'],
  ],
  [
    'a wrong value in an open mapping',
    'remat:\n  blocks.0: fll\n',
    [':2:13', 'must be one of none, full', "did you mean 'full'?"],
  ],
  ['neither alternative of a union', 'remat: 3\n', [':1:8', "'remat' must be"]],
  [
    'a wrong element of a list',
    'layers:\n  - width: 3\n  - widht: 4\n',
    [':3:5', "unknown key 'widht' in 'layers[1]'", "did you mean 'width'?"],
  ],
  ['an empty text', 'name: ""\n', [':1:7', 'is empty']],
  ['a duplicate key', 'seed: 1\nname: x\nseed: 2\n', [':3:1', 'invalid YAML', 'stands twice']],
  ['a tab', 'parallel:\n\tdata: 2\n', [':2:', 'invalid YAML', 'spaces']],
  ['an open quote', 'name: "abc\n', ['invalid YAML', 'c.yaml:']],
  ['an empty file', '', ['is empty', 'plexus init']],
  ['a file of comments', '# nothing\n', ['is empty']],
  ['a list at the root', '- 1\n- 2\n', [':1:1', 'must be a mapping', 'a list']],
  ['a scalar at the root', 'hello\n', ['must be a mapping', 'single value']],
  [
    'a flag with a wrong type',
    'seed: 1\n',
    ['--set parallel.data=two', "'parallel.data' must be a number"],
    ['parallel.data=two'],
  ],
  [
    'a flag with an unknown key',
    '',
    ['--set parallel.dta=2', "unknown key 'dta'", "did you mean 'data'?"],
    ['parallel.dta=2'],
  ],
  ['a flag without a value', 'seed: 1\n', ['--set seed', "expected 'key=value'"], ['seed']],
  ['a flag with bad YAML', 'seed: 1\n', ['--set name=[', 'not valid YAML'], ['name=[']],
  ['a flag through a value', 'seed: 1\n', ['--set seed.x=1', 'not a section'], ['seed.x=1']],
  ['a flag with a bad path', 'seed: 1\n', ['--set a..b=1', 'not a path'], ['a..b=1']],
];

describe('readConfig refuses', () => {
  for (const [title, text, parts, overrides] of bad)
    it(title, () => {
      const start = title === 'a flag with an unknown key' ? 'seed: 1\n' : text;
      const { message } = issuesOf(start, overrides);
      for (const part of parts) expect(message).toContain(part);
    });

  it('everything at once, in the order of the file', () => {
    const { issues } = issuesOf('seed: x\nnme: a\nparallel:\n  data: -1\n  foo: 1\n');
    expect(issues.map(({ path }) => path)).toEqual(['seed', 'nme', 'parallel.data', 'parallel.foo']);
    expect(issues.map(({ location }) => location?.line)).toEqual([1, 2, 4, 5]);
  });

  it('a file that is not there, and a folder', () => {
    expect(() => readConfig(schema, join(folder, 'none.yaml'))).toThrow(/there is no file .*none\.yaml/);
    expect(() => readConfig(schema, folder)).toThrow(/is a folder/);
  });

  it('what later checks find, at the place of the value', () => {
    const file = join(folder, 'd.yaml');
    writeFileSync(file, 'parallel:\n  data: 3\n');
    const { fail } = readConfig(schema, file).origin;
    expect(fail([{ path: ['parallel', 'data'], message: 'does not divide' }]).message).toMatch(
      /d\.yaml:2:9: does not divide/,
    );
  });
});

describe('readConfig', () => {
  it('fills defaults, takes overrides of any depth, and knows what was given', () => {
    const { values, origin } = readConfig(schema, { optim: { name: 'adam' } }, [
      'parallel.data=4',
      'name=x: y'.replace(': ', '-'),
      'remat."blocks.0"=full',
      'layers=[{width: 3}]',
      'layers.0.width=5',
    ]);
    expect(values).toEqual({
      name: 'x-y',
      seed: 0,
      parallel: { data: 4, schedule: '1f1b' },
      optim: { name: 'adam', lr: 0.001, beta1: 0.9 },
      remat: { 'blocks.0': 'full' },
      layers: [{ width: 5 }],
    });
    expect(origin.given.has('parallel.data')).toBe(true);
    expect(origin.given.has('parallel.schedule')).toBe(false);
  });

  it('does not change the object it was given', () => {
    const source = { parallel: { data: 1 } };
    readConfig(schema, source, ['parallel.data=2']);
    expect(source).toEqual({ parallel: { data: 1 } });
  });

  it('follows anchors and merges', () => {
    const file = join(folder, 'e.yaml');
    writeFileSync(file, 'parallel: &p\n  data: 2\nremat: none\n');
    expect(readConfig(schema, file).values.parallel.data).toBe(2);
  });
});

describe('formatYaml', () => {
  it('writes every key with its docstring, and reads back as the same config', () => {
    const { values } = readConfig(schema, { remat: { 'blocks.1': 'full' }, layers: [{ width: 2 }] });
    const text = formatYaml(schema, values, 'A heading');
    expect(text).toMatch(/^# A heading/);
    expect(text).toContain('data: 1 # data-parallel replicas');
    const file = join(folder, 'f.yaml');
    writeFileSync(file, text);
    expect(readConfig(schema, file).values).toEqual(values);
  });
});
