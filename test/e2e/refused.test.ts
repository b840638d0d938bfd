import { cpSync, existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectOneBlock, plexus, project, runOf, set } from './plexus.ts';

type Row = readonly [title: string, settings: Readonly<Record<string, unknown>>, code: number, says: readonly RegExp[]];

/** Each says what the constraint is, what was found, and what to do. Nothing is started. */
const settings: readonly Row[] = [
  ['a wrong key', { 'train.step': 3 }, 2, [/unknown key 'step' in 'train'/, /did you mean 'steps'/]],
  ['a wrong type', { 'batch.global': 'many' }, 2, [/--set batch\.global/, /must be a number/, /the text 'many'/]],
  ['a value out of range', { 'model.args.dropout': 1.5 }, 2, [/model\.args\.dropout/, /less than 1/, /1\.5/]],
  [
    'experts that do not divide the data axis',
    { 'parallel.expert': 3 },
    2,
    [/parallel\.expert must divide parallel\.data/, /3 does not divide 2/, /set parallel\.data to 3/],
  ],
  [
    'experts that the expert axis does not divide',
    { 'model.args.moe.experts': 3 },
    2,
    [/2 does not divide the 3 experts of "blocks\.1\.moe"/, /give the model 4 experts/],
  ],
  [
    'microbatches that the data axis does not divide',
    { 'batch.global': 6 },
    2,
    [/must divide the 3 microbatches/, /set batch\.global to 8/],
  ],
  [
    'a microbatch that does not divide the batch',
    { 'batch.micro': 3 },
    2,
    [/3 does not divide 8/, /set batch\.micro to/],
  ],
  ['a pipeline longer than the model', { 'parallel.pipeline': 9 }, 2, [/9 and the model has 4 layers/, /at most 4/]],
  [
    'stages that leave layers out',
    { 'parallel.pipeline': 2, 'parallel.stages': [1, 1] },
    2,
    [/leaves out the layers blocks\.1, head/],
  ],
  ['a file that is not there', { 'data.path': 'nowhere.txt' }, 2, [/there is no file '.*nowhere\.txt'/, /relative to/]],
  ['a dataset without content', { 'data.path': 'empty.txt' }, 3, [/empty\.txt is empty/, /give a text file/]],
  ['a dataset that is no text', { 'data.path': 'noise.txt' }, 3, [/noise\.txt/, /UTF-8/]],
  ['a dataset that is too short', { 'data.path': 'short.txt' }, 3, [/has \d+ tokens.* takes .*17/, /use more text/]],
  ['an unknown device', { 'engine.device': 'tpu' }, 2, [/--set engine\.device/, /"tpu", expected cpu, cuda:N/]],
  ['a device that is not here', { 'engine.device': 'dml' }, 2, [/dml is not available: DirectML is part of Windows/]],
  [
    'an unknown device of the other engine',
    { engine: { kind: 'tfjs', device: 'cuda:0' } },
    2,
    [/not a tfjs backend.* knows cpu, wasm/],
  ],
  [
    'a device of the other engine that is not installed',
    { engine: { kind: 'tfjs', device: 'node-gpu' } },
    2,
    [/npm install @tensorflow\/tfjs-node-gpu/],
  ],
  [
    'a schedule table of another size',
    { 'parallel.pipeline': 2, 'parallel.schedule': { file: 'small.csv' } },
    2,
    [/small\.csv" is for 1 microbatches, but a data rank has 2/, /change batch or parallel\.data/],
  ],
  [
    'a schedule table with a gap',
    { 'parallel.pipeline': 2, 'parallel.schedule': { file: 'gap.csv' } },
    2,
    [/gap\.csv" lacks the cell 1B1/],
  ],
  [
    'a schedule table that would hang',
    { 'parallel.pipeline': 2, 'parallel.schedule': { file: 'hang.csv' } },
    2,
    [/hang\.csv" cannot be run; change the order/, /deadlock/, /waits for a message from rank/],
  ],
];

const files = {
  'empty.txt': '',
  'noise.txt': Buffer.from([0xff, 0xfe, 0x80, 0x81, 0xc0].flatMap((byte) => new Array<number>(2000).fill(byte))),
  'short.txt': 'the whale and the sea',
  'small.csv': '0F0,0B0\n1F0,1B0\n',
  'gap.csv': '0F0,0F1,0B0,0B1\n1F0,1B0,1F1\n',
  'hang.csv': '0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n',
};

describe('refused at the door', () => {
  it.each(settings)('%s', async (_, values, code, says) => {
    const folder = project(files);
    const outcome = await plexus(['train', 'config.yaml', ...set(values)], { cwd: folder });
    for (const text of says) expect(outcome.stderr).toMatch(text);
    expectOneBlock(outcome);
    expect(outcome).toMatchObject({ code, stdout: '' });
    expect(outcome.seconds).toBeLessThan(20);
    expect(existsSync(join(folder, 'runs'))).toBe(false);
  });

  it('a config that is no YAML, and one that is not there', async () => {
    const folder = project({ 'broken.yaml': 'model: {\n  name: cnn\ntrain: [\n' });
    const broken = await plexus(['train', 'broken.yaml'], { cwd: folder });
    expect(broken.stderr).toMatch(/broken\.yaml:\d+:\d+: invalid YAML/);
    const missing = await plexus(['train', 'confg.yaml'], { cwd: folder });
    expect(missing.stderr).toMatch(/there is no file 'confg\.yaml'[\s\S]*plexus init/);
    for (const outcome of [broken, missing]) {
      expectOneBlock(outcome);
      expect(outcome.code).toBe(2);
    }
  });
});

describe('a setting without effect', () => {
  it('warns once, and the run goes on', async () => {
    const folder = project();
    const idle = set({ 'parallel.schedule': 'zero-bubble', 'parallel.chunks': 3, 'train.eval_microbatches': 2 });
    const short = set({ 'train.steps': 1, 'train.eval_every': 0, 'generate.characters': 0 });
    const { stderr, code } = await plexus(['train', 'config.yaml', ...idle, ...short], { cwd: folder });
    for (const key of ['parallel.schedule zero-bubble', 'parallel.chunks 3', 'train.eval_microbatches'])
      expect(stderr.split(`! ${key} has no effect: `)).toHaveLength(2);
    expect(code).toBe(0);
  });
});

describe('a checkpoint that does not fit', () => {
  let trained: string;
  beforeAll(async () => {
    trained = project();
    const { code } = await plexus(['train', 'config.yaml', ...set({ 'train.checkpoint_every': 0 })], { cwd: trained });
    expect(code).toBe(0);
  });
  /** A copy of the trained run to spoil. */
  const copy = (): { folder: string; run: string; checkpoint: string } => {
    const folder = project();
    cpSync(join(trained, 'runs'), join(folder, 'runs'), { recursive: true });
    const run = runOf(folder);
    return { folder, run, checkpoint: join(run, 'checkpoints', 'step-6') };
  };
  const more = set({ 'train.steps': 8 });

  it('truncated: names the file and its length, and leaves everything as it is', async () => {
    const { folder, run, checkpoint } = copy();
    const shard = readdirSync(checkpoint).find((name) => name.endsWith('.safetensors')) as string;
    truncateSync(join(checkpoint, shard), 100);
    const before = readFileSync(join(run, 'config.yaml'), 'utf8');
    for (const args of [
      ['train', 'config.yaml', '--resume', run, ...more],
      ['eval', run],
      ['generate', run],
    ]) {
      const outcome = await plexus(args, { cwd: folder });
      expect(outcome.stderr).toMatch(/no checkpoint in .* is whole/);
      expect(outcome.stderr).toContain(`the shard ${shard} has 100 bytes, but should have `);
      expectOneBlock(outcome);
      expect(outcome).toMatchObject({ code: 3, stdout: '' });
    }
    expect(readFileSync(join(run, 'config.yaml'), 'utf8')).toBe(before);
  });

  it('of another model: names parameters and shapes', async () => {
    const { folder, run } = copy();
    const outcome = await plexus(['train', '--resume', run, ...more, ...set({ 'model.args.dim': 32 })], {
      cwd: folder,
    });
    expect(outcome.stderr).toMatch(/of another model[\s\S]*'.*' is \[16,16\] in it, but \[32,32\] in the model/);
    expect(outcome.stderr).toMatch(/use the config that the run was made with/);
    expectOneBlock(outcome);
    expect(outcome).toMatchObject({ code: 3, stdout: '' });
  });

  it('of another optimizer: the run can still be used as it was', async () => {
    const { folder, run } = copy();
    const config = join(folder, 'config.yaml');
    writeFileSync(config, readFileSync(config, 'utf8').replace('name: adamw', 'name: muon'));
    const outcome = await plexus(['train', 'config.yaml', '--resume', run, ...more], { cwd: folder });
    expect(outcome.stderr).toMatch(/another optimizer.*it has no 'optim\/momentum\/[\s\S]*use the config/);
    expectOneBlock(outcome);
    expect(outcome.code).toBe(3);
    expect((await plexus(['eval', run], { cwd: folder })).code).toBe(0);
  });

  it('of no run', async () => {
    const { folder } = copy();
    const outcome = await plexus(['train', 'config.yaml', '--resume', 'runs/nothing'], { cwd: folder });
    expect(outcome.stderr).toMatch(/there is no run folder 'runs\/nothing'/);
    expectOneBlock(outcome);
    expect(outcome.code).toBe(3);
  });
});
