import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CliResult, cliPath, runCli } from './run-cli.ts';
import { tinyConfig, tinyProject } from './tiny-run.ts';

const folders: string[] = [];
const project = (config?: string): string => {
  const folder = tinyProject(config);
  folders.push(folder);
  return folder;
};
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Nothing that a person should not see: stacks, warnings of Node, unhandled rejections. */
function expectClean(result: CliResult): void {
  expect(result.stderr).not.toMatch(/unhandled|Warning:|node:internal|^\s+at /im);
}

const runFolder = (folder: string): string => join(folder, 'runs', readdirSync(join(folder, 'runs'))[0] as string);
const summaryOf = (run: string) => JSON.parse(readFileSync(join(run, 'summary.json'), 'utf8'));

describe('help and usage', () => {
  it.each([[['--help']], [['train', '--help']], [['--version']]])(
    '%j goes to standard output with code 0',
    async (args) => {
      const result = await runCli(args);
      expect(result).toMatchObject({ code: 0, stderr: '' });
      expect(result.stdout).not.toBe('');
    },
  );

  it.each([
    [['trian', 'x.yaml'], /unknown command 'trian'[\s\S]*Did you mean train/],
    [['train'], /give a config to train .* or a run to go on with/],
    [['plan'], /missing required argument 'config'/],
    [['train', 'x.yaml', '--wrokers', '2'], /unknown option '--wrokers'[\s\S]*Did you mean --workers/],
    [['train', 'x.yaml', '--workers', 'two'], /expected a whole number of at least 1/],
    [['train', 'nowhere.yaml'], /there is no file 'nowhere.yaml'/],
    [['plan', 'nowhere.yaml'], /there is no file 'nowhere.yaml'/],
  ])('%j ends with code 2', async (args, message) => {
    const result = await runCli(args);
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code: 2, stdout: '' });
    expectClean(result);
  });

  it.each([[['eval', 'nowhere']], [['generate', 'nowhere']]])('%j ends with code 3', async (args) => {
    const result = await runCli(args);
    expect(result.stderr).toMatch(/nowhere/);
    expect(result).toMatchObject({ code: 3, stdout: '' });
    expectClean(result);
  });
});

describe('doctor', () => {
  it('prints a report', async () => {
    const result = await runCli(['doctor']);
    // Graphics drivers may have something to say on standard error while they are tried.
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/onnxruntime-node\s+\d/);
    expect(result.stdout).toContain('Plexus can train here.');
  });

  it('prints one JSON object', async () => {
    const result = await runCli(['doctor', '--json']);
    expect(JSON.parse(result.stdout)).toMatchObject({ fit: true, sections: { versions: expect.any(Array) } });
  });
});

describe('a run', () => {
  let folder: string;
  let trained: CliResult;
  let run: string;
  beforeAll(async () => {
    folder = project();
    trained = await runCli(['train', 'config.yaml'], { cwd: folder });
    run = runFolder(folder);
  });

  it('trains: progress on standard error, the result on standard output', () => {
    expect(trained.stderr).toMatch(/step 1\/6 .*loss \d/);
    expect(trained.stderr).toMatch(/step 6\/6/);
    expect(trained.stdout).toMatch(/✓ .*6 steps/);
    expect(trained.stdout).toMatch(/validation loss +\d/);
    expect(trained.stdout).toMatch(/bigram baseline +\d\.\d+ +(not )?beaten/);
    expect(trained.stdout).toContain('plexus generate ');
    expect(trained.code).toBe(0);
    expectClean(trained);
  });

  it('evaluates', async () => {
    const result = await runCli(['eval', run], { cwd: folder });
    expect(result.stdout).toMatch(/loss +\d/);
    expect(result.code).toBe(0);
    expectClean(result);
    const json = await runCli(['eval', run, '--json'], { cwd: folder });
    expect(JSON.parse(json.stdout).loss).toBeCloseTo(summaryOf(run).val_loss, 6);
  });

  it('generates: the text alone on standard output, the same for the same seed', async () => {
    const args = ['generate', run, '--prompt', 'the whale', '--tokens', '30', '--seed', '5'];
    const [first, second] = await Promise.all([runCli(args, { cwd: folder }), runCli(args, { cwd: folder })]);
    expect(first.stdout).toMatch(/^the whale[\s\S]{30}\n$/);
    expect(second.stdout).toBe(first.stdout);
    expect(first.code).toBe(0);
    expectClean(first);
  });

  it('prints JSON lines and nothing else with --json, with the same bits on one worker', async () => {
    const other = project();
    const result = await runCli(['train', 'config.yaml', '--json', '--workers', '1'], { cwd: other });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    const events = result.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const types = new Set(events.map((event) => event.type));
    for (const type of ['started', 'step', 'evaluated', 'checkpointed', 'finished']) expect(types).toContain(type);
    const { summary, status } = events.at(-1);
    expect(status).toBe('completed');
    const before = summaryOf(run);
    expect(summary.losses_sha256).toBe(before.losses_sha256);
    expect(summary.weights_sha256).toBe(before.weights_sha256);
  });

  it('resumes with more steps', async () => {
    const result = await runCli(['train', 'config.yaml', '--resume', run, '--set', 'train.steps=8'], { cwd: folder });
    expect(result.stderr).toContain('continuing after step 6 of 8');
    expect(result.stderr).toMatch(/step 8\/8/);
    expect(result.code).toBe(0);
    expect(summaryOf(run).steps).toBe(8);
  });

  it('says so when a run that is resumed has nothing left to do', async () => {
    const again = await runCli(['train', '--resume', run], { cwd: folder });
    expect(again.stderr.match(/^! .*$/gm)).toEqual([expect.stringMatching(/has done its 8 steps already/)]);
    expect(again.code).toBe(0);
    const back = await runCli(['train', '--resume', run, '--set', 'train.steps=3'], { cwd: folder });
    expect(back.stderr).toMatch(/--set train.steps=3: the run has done 8 steps.*set train.steps above 8/);
    expect(back.code).toBe(2);
  });
});

describe('plan', () => {
  it('shows stages, bytes and a timeline, and starts nothing', async () => {
    const folder = project();
    const result = await runCli(['plan', 'config.yaml', '--set', 'parallel.pipeline=2'], { cwd: folder });
    expect(result.stdout).toMatch(/stage/i);
    expect(result.stdout).toMatch(/idle +\d/);
    expect(result.code).toBe(0);
    expectClean(result);
    expect(existsSync(join(folder, 'runs'))).toBe(false);
  });

  it('prints programs and JSON', async () => {
    const folder = project();
    const programs = await runCli(['plan', 'config.yaml', '--programs'], { cwd: folder });
    // (Gradients meet in one or the other, as the optimizer state is sharded or not.)
    expect(programs.stdout).toMatch(/AllReduce|ReduceScatter/);
    const json = await runCli(['plan', 'config.yaml', '--json'], { cwd: folder });
    expect(JSON.parse(json.stdout)).toMatchObject({ mesh: { data: 2, pipeline: 1, expert: 2 } });
  });
});

describe('init', () => {
  it('writes a config and a module that train', async () => {
    const folder = project();
    const made = await runCli(['init', 'mine'], { cwd: folder });
    expect(made.code).toBe(0);
    expect(made.stdout.trim().split('\n')).toEqual([join('mine', 'config.yaml'), join('mine', 'my-model.ts')]);
    const short = [
      '--set',
      'train.steps=2',
      '--set',
      'train.eval_every=0',
      '--set',
      'data.validation=0.002',
      '--set',
      'generate.characters=5',
    ];
    const result = await runCli(['train', 'mine/config.yaml', ...short], { cwd: folder, timeoutMs: 90_000 });
    expect(result.stderr).toMatch(/step +2\/2/);
    expect(result.code).toBe(0);
    expectClean(result);
  }, 120_000);

  it('does not overwrite', async () => {
    const folder = project();
    const result = await runCli(['init'], { cwd: folder });
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(/config\.yaml' exists already.*--force/);
    expect(readFileSync(join(folder, 'config.yaml'), 'utf8')).toBe(tinyConfig);
  });
});

describe('Ctrl-C', () => {
  const long = [
    'train',
    'config.yaml',
    '--set',
    'train.steps=100000',
    '--set',
    'train.eval_every=0',
    '--set',
    'train.checkpoint_every=0',
  ];
  const afterFirstStep = (kills: readonly NodeJS.Signals[]) => {
    let sent = 0;
    return (text: string, kill: (signal: NodeJS.Signals) => void) => {
      if (sent === 0 && /step +\d+\/100000/.test(text)) kill(kills[sent++] as NodeJS.Signals);
      else if (sent > 0 && sent < kills.length && text.includes('stopping after this step'))
        kill(kills[sent++] as NodeJS.Signals);
    };
  };

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s stops with a checkpoint and code %d', async (signal, code) => {
    const folder = project();
    const result = await runCli(long, { cwd: folder, onStderr: afterFirstStep([signal]) });
    expect(result).toMatchObject({ code, signal: null });
    expect(result.stdout).toMatch(/stopped after \d+ steps; checkpoint/);
    expect(result.stdout).toContain('--resume');
    expect(readdirSync(join(runFolder(folder), 'checkpoints')).some((name) => /^step-\d+$/.test(name))).toBe(true);
    expectClean(result);
  });

  it('a reader that goes away stops it too', async () => {
    const folder = project();
    const child = spawn(process.execPath, [cliPath, ...long, '--json'], {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      if (text.includes('"type":"step"')) child.stdout.destroy();
    });
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(143);
    expect(readdirSync(join(runFolder(folder), 'checkpoints'))).toEqual([expect.stringMatching(/^step-\d+$/)]);
  });

  it('twice stops at once', async () => {
    const folder = project();
    const result = await runCli(long, { cwd: folder, onStderr: afterFirstStep(['SIGINT', 'SIGINT']) });
    // It dies of the signal, which shells show as 130; or the step was over before the second one came.
    expect(result.signal ?? result.code).toBeOneOf(['SIGINT', 130]);
  });
});

describe('failures', () => {
  it('shows all faults of a config at once, with lines', async () => {
    const folder = project(tinyConfig.replace('parallel:', 'paralel:').replace('steps: 6', 'steps: six'));
    const result = await runCli(['train', 'config.yaml'], { cwd: folder });
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(/config\.yaml:9:\d+: .*paralel[\s\S]*did you mean 'parallel'/);
    expect(result.stderr).toMatch(/config\.yaml:11:\d+: .*train\.steps/);
    expectClean(result);
  });

  it('shows one cause block when a module throws, and ends with code 1', async () => {
    const folder = project(tinyConfig.replace(/ {2}name: transformer-lm\n.*\n/, '  file: bad.ts\n'));
    writeFileSync(
      join(folder, 'bad.ts'),
      `import { nn } from 'plexus';
       export const model = (_: unknown, info: { vocabSize: number }) => ({
         layers: [
           { name: 'embed', module: nn.embedding(info.vocabSize, 8) },
           { name: 'bad', module: { kind: 'bad', forward() { throw new Error('this module is out of order'); } } },
         ],
         loss: nn.crossEntropy(),
       });`,
    );
    const result = await runCli(['train', 'config.yaml'], { cwd: folder });
    expect(result.stderr.match(/this module is out of order/g)).toHaveLength(1);
    expect(result.stderr).toMatch(/bad/);
    expect(result.code).toBe(1);
  });

  it('stops at a loss that is not finite', async () => {
    const folder = project();
    const result = await runCli(['train', 'config.yaml', '--set', 'optim.lr=1e30', '--set', 'optim.clip_norm=null'], {
      cwd: folder,
    });
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/step/);
    expect(result.stderr).toMatch(/NaN|finite/);
  });

  it('names a damaged checkpoint and ends with code 3', async () => {
    const folder = project();
    await runCli(['train', 'config.yaml', '--set', 'train.checkpoint_every=0'], { cwd: folder });
    const checkpoints = join(runFolder(folder), 'checkpoints');
    for (const step of readdirSync(checkpoints)) writeFileSync(join(checkpoints, step, 'index.json'), '{');
    const result = await runCli(['eval', runFolder(folder)], { cwd: folder });
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/index\.json/);
    expectClean(result);
  });
});
