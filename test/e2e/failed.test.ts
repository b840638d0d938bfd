import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkpointsOf, expectOneBlock, plexus, project, runOf, set } from './plexus.ts';

/** A model of three layers; `body` is what the one in the middle does, `top` stands before it in the file. */
const moduleFile = (body: string, top = ''): string => `
import * as tf from '@tensorflow/tfjs-core';
import { isMainThread, workerData } from 'node:worker_threads';
import { type Module, init, nn, param } from 'plexus/modules';

const rank: number | null = isMainThread ? null : workerData.rank;
${top}

const odd: Module = {
  kind: 'odd',
  params: { p: param([1], init.ones) },
  forward({ p }, [x], ctx) {
    ${body}
  },
};

export const model = (_: unknown, info: { vocabSize: number }) => ({
  layers: [
    { name: 'embed', module: nn.embedding(info.vocabSize, 8) },
    { name: 'middle', module: nn.sequential({ first: nn.linear(8, 8), odd }) },
    { name: 'head', module: nn.linear(8, info.vocabSize) },
  ],
  loss: nn.crossEntropy(),
});
`;

const config = `
name: failing
model: { file: model.ts }
data: { name: text, path: corpus.txt, context: 16, tokenizer: { kind: char } }
batch: { global: 8, micro: 2 }
optim: { name: sgd, lr: 0.01, momentum: 0 }
parallel: { data: 2 }
engine: { threads: 1 }
train: { steps: 100000, checkpoint_every: 10 }
`;

async function train(source: string, settings: Readonly<Record<string, unknown>> = {}) {
  const folder = project({ 'config.yaml': config, 'model.ts': source });
  const outcome = await plexus(['train', 'config.yaml', ...set(settings)], { cwd: folder });
  expectOneBlock(outcome);
  return { folder, outcome, ...outcome };
}

/** Line of the module file on which a text stands. */
const lineOf = (source: string, text: string): number =>
  source.split('\n').findIndex((line) => line.includes(text)) + 1;

describe('a module file that', () => {
  const cases: readonly (readonly [string, string, readonly RegExp[]])[] = [
    [
      'returns the wrong shape',
      'return tf.slice(x!, [0, 0, 0], [-1, -1, 4]);',
      [
        /linear at "head": failed on float32 \[2,16,4\]: .* its last axis should be 8/,
        /what the layer "middle" returns/,
      ],
    ],
    [
      'gives operations the wrong shape',
      'return tf.matMul(x!, tf.ones([9, 8])); // here',
      [/odd at "middle\.odd": failed on float32 \[2,16,8\]: .*inner sizes 8 and 9 differ/],
    ],
    ['returns no tensor', 'return 3 as never;', [/odd at "middle\.odd": forward returned number; expected a tensor/]],
    ['returns nothing', 'return undefined as never;', [/middle\.odd": forward returned .*; expected a tensor/]],
    ['is asynchronous', 'return Promise.resolve(x) as never;', [/a promise \(forward must not be async\)/]],
    [
      'reads values',
      'return x!.dataSync()[0]! > 0 ? x! : tf.neg(x!); // here',
      [/odd at "middle\.odd": .*float32 \[2,16,8\]\) were read/, /use tensor ops such as tf\.where/],
    ],
    [
      'uses an operation that cannot be compiled',
      'return tf.real(tf.fft(tf.complex(x!, x!))); // here',
      [/odd at "middle\.odd": .*the tfjs kernel Complex\(.*\) has no lowering; write it with other tfjs ops/],
    ],
    [
      'asks for a parameter that it has not',
      'return tf.mul(x!, (arguments[0] as never as Record<string, tf.Tensor>).q!);',
      [/odd at "middle\.odd": .*no parameter "q"; it has p/],
    ],
  ];
  it.each(cases)('%s', async (_, body, says) => {
    const source = moduleFile(body);
    const { stderr, code, folder, seconds } = await train(source);
    for (const text of says) expect(stderr).toMatch(text);
    if (body.includes('// here')) expect(stderr).toMatch(new RegExp(`model\\.ts:${lineOf(source, '// here')}:\\d+`));
    expect(code).toBe(1);
    expect(seconds).toBeLessThan(20);
    // Nothing was begun, so nothing is kept.
    await expect(async () => runOf(folder)).rejects.toThrow();
  });

  it('throws, with the place in the file and the original message', async () => {
    const source = moduleFile("throw new TypeError('no such luck');");
    const { stderr, code } = await train(source);
    expect(stderr).toMatch(/✗ odd at "middle\.odd": failed on float32 \[2,16,8\]: no such luck\n/);
    expect(stderr).toContain(`model.ts:${lineOf(source, 'no such luck')}:`);
    expect(code).toBe(1);
  });

  it('does not compile, or cannot be loaded', async () => {
    const broken = await train('export const model = (');
    expect(broken.stderr).toMatch(/config\.yaml:3:\d+: .*could not be compiled:\n.*model\.ts:1:\d+: /);
    const thrown = await train("throw new Error('no such luck');");
    expect(thrown.stderr).toMatch(/config\.yaml:3:\d+: .*model\.ts threw when it was loaded: no such luck/);
    expect([broken.code, thrown.code]).toEqual([2, 2]);
  });
});

describe('a worker that', () => {
  /** On rank 1, once there is a checkpoint, whatever the modules are doing then. */
  const later = (what: string, sign = 'checkpoints/step-10', bytes = 0): string => `
import { existsSync, readdirSync, statSync } from 'node:fs';
const begun = () => existsSync('runs') && readdirSync('runs').some((run) => existsSync(\`runs/\${run}/${sign}\`) && statSync(\`runs/\${run}/${sign}\`).size > ${bytes});
if (rank === 1) {
  const timer = setInterval(() => {
    if (!begun()) return;
    clearInterval(timer);
    ${what}
  }, 10);
}`;

  it('fails to start while the others do not', async () => {
    const source = moduleFile('return x!;', "if (rank === 1) throw new Error('not on this one');");
    const { stderr, code, seconds } = await train(source);
    expect(stderr).toMatch(/✗ worker 1 failed\n {2}Error: .*model\.ts threw when it was loaded: not on this one/);
    expect(stderr).toContain(`model.ts:${lineOf(source, 'not on this one')}:`);
    expect(code).toBe(1);
    expect(seconds).toBeLessThan(20);
  });

  it('throws in the middle of training', async () => {
    const source = moduleFile('return x!;', later("throw new Error('out of the blue');"));
    const { stderr, code, seconds, folder } = await train(source);
    expect(stderr).toMatch(
      /✗ worker 1 failed.*\n {2}Error: out of the blue\n {2}instruction +\S.*\n {2}at +.*model\.ts:\d+/,
    );
    const kept = checkpointsOf(folder);
    expect(stderr).toMatch(new RegExp(`last good checkpoint: .*${kept.at(-1)}; go on from it with --resume runs/`));
    expect(kept.every((name) => /^step-\d+0$/.test(name))).toBe(true);
    expect(code).toBe(1);
    expect(seconds).toBeLessThan(20);
  });

  it('dies without a word', async () => {
    const { stderr, code, seconds } = await train(moduleFile('return x!;', later('process.exit(3);')));
    expect(stderr).toMatch(/✗ worker 1 failed.*\n {2}WorkerExit: the worker thread exited with code 3/);
    expect(stderr).toMatch(/\n {2}instruction +\S/);
    expect(code).toBe(1);
    expect(seconds).toBeLessThan(20);
  });

  it('hangs: everybody else says whom it waits for', async () => {
    const source = moduleFile('return x!;', later('for (;;);', 'metrics.jsonl', 5000));
    // At a checkpoint nobody would wait for anybody: all ranks are idle then. Nor where it hangs with its part of a step's last
    // exchange done (the others finish the step without it): then once more.
    const settings = { 'comm.deadline_s': 2, 'train.checkpoint_every': 0 };
    let { stderr, code, folder } = await train(source, settings);
    for (let again = 0; again < 4 && /rank 0: between steps/.test(stderr); again++) {
      expect(stderr).toMatch(/✗ worker 1 failed\n {2}Hang: the worker has been silent/);
      ({ stderr, code, folder } = await train(source, settings));
    }
    expect(stderr).toMatch(/rank 0 waited \d+ ms for message ".*" from rank 1/);
    expect(stderr).toMatch(/last seen:\n.*rank 0: step \d+.*\n.*rank 1: /);
    expect(stderr).toMatch(/--verbose shows the last instructions of each worker, .*flight-recorder\.json has more/);
    const recorded = JSON.parse(readFileSync(join(runOf(folder), 'flight-recorder.json'), 'utf8'));
    expect(recorded.map(({ rank }: { rank: number }) => rank)).toEqual([0, 1]);
    expect(recorded[0].waits[0]).toMatchObject({ from: 1 });
    expect(recorded[1].recent.length).toBeGreaterThan(10);
    expect(code).toBe(1);
  });
});

describe('a loss that is not finite', () => {
  // The second loss term pulls p down by 0.04 a step, from 1: after 25 steps the root is of a negative number.
  const sinking = moduleFile('ctx.addLoss("pull", tf.sum(p!)); return tf.mul(x!, tf.sqrt(p!));');

  it.each([
    ['2,1,1', { 'parallel.data': 2 }],
    ['1,2,1', { 'parallel.data': 1, 'parallel.pipeline': 2 }],
  ])('on %s: names step and module, and keeps the last good checkpoint', async (_, mesh) => {
    const { stderr, code, folder } = await train(sinking, { ...mesh, 'optim.lr': 0.04, 'train.checkpoint_every': 7 });
    const [, step] = /✗ worker \d failed at step (\d+)/.exec(stderr) ?? [];
    expect(Number(step)).toBeGreaterThan(20);
    expect(stderr).toMatch(
      new RegExp(`NonFinite: .* at step ${step} .*first module whose output is not finite is middle\\.odd`),
    );
    expect(stderr).toMatch(/Usual causes: .*learning rate.*optim\.clip_norm/);
    const last = Math.floor(Number(step) / 7) * 7;
    expect(checkpointsOf(folder)).toContain(`step-${last}`);
    expect(stderr).toMatch(new RegExp(`last good checkpoint: .*step-${last}; go on from it with --resume`));
    expect(code).toBe(1);
    // It can be gone on from, with a smaller learning rate.
    const run = runOf(folder);
    const more = set({ 'optim.lr': 1e-6, 'train.steps': last + 3 });
    const again = await plexus(['train', '--resume', run, ...more], { cwd: folder });
    expect(again.code).toBe(0);
  });

  it('in the gradient names the parameter', async () => {
    const { stderr, code } = await train(moduleFile('return tf.add(x!, tf.sqrt(tf.mul(0, tf.square(p!))));'));
    expect(stderr).toMatch(/gradient norm at step 0 is NaN: the gradient of middle\.odd\.p is not finite/);
    expect(code).toBe(1);
  });
});

describe('a run that succeeds', () => {
  it('samples text also where the corpus has no line break to begin with', async () => {
    const folder = project();
    writeFileSync(join(folder, 'corpus.txt'), 'the old whale sank the white ship. '.repeat(200));
    const { code, stdout } = await plexus(['train', 'config.yaml'], { cwd: folder });
    expect(stdout).toMatch(/sample/);
    expect(code).toBe(0);
  });
});
