import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, resolveConfig, train } from '../../src/coordinator/index.ts';
import { modelFunctions, nn } from '../../src/modules/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-refusals-'));
const file = join(root, 'config.yaml');
beforeAll(() => {
  writeFileSync(join(root, 'text.txt'), 'a sentence to learn from. '.repeat(40));
  writeFileSync(join(root, 'occupied'), '');
  writeFileSync(
    file,
    `model: { name: transformer-lm, args: { layers: 1, dim: 8, heads: 2 } }
data: { name: text, path: text.txt, context: 8, tokenizer: { kind: char } }
batch: { global: 4, micro: 2 }
run: { dir: ${join(root, 'runs')}, id: taken }
train: { steps: 1 }
`,
  );
});
afterAll(() => rmSync(root, { recursive: true }));

const refusal = (...overrides: string[]): Promise<unknown> =>
  complete(train(resolveConfig(file, overrides))).then(
    () => 'trained',
    (error: unknown) => error,
  );

describe('train refuses, at the key and before anything is started,', () => {
  it.each([
    [
      'a mesh with more ranks than layers',
      ['parallel.pipeline=9'],
      /parallel.pipeline=9: .*is 9 and the model has 3 layers/,
    ],
    [
      'stages that leave layers out',
      ['parallel={pipeline: 2, stages: [1, 1]}'],
      /parallel=.*: parallel.stages leaves out the layers head/,
    ],
    [
      'an evaluation without a part for it',
      ['train.eval_split=test'],
      /train.eval_split=test: .*no test part.*data.test/,
    ],
    ['a folder for runs that is a file', ['run.dir=occupied'], /run.dir=occupied: .*ENOTDIR/],
    ['a folder for runs below a file', ['run.dir=occupied/runs'], /run.dir=occupied\/runs: .*ENOTDIR/],
  ])('%s', async (_, overrides, message) => {
    const placed = overrides.map((override) => override.replace('occupied', join(root, 'occupied')));
    const error = await refusal(...placed);
    expect(error).toMatchObject({ name: 'ConfigError' });
    expect(String(error).replaceAll(`${root}/`, '')).toMatch(message);
    expect(readdirSync(root).sort()).toEqual(['config.yaml', 'occupied', 'text.txt']);
  });

  // Node's own recursive mkdir never returns there.
  it.runIf(process.platform === 'linux')('a folder for runs that cannot be made', async () => {
    expect(String(await refusal('run.dir=/proc/no/runs'))).toMatch(/run.dir=\/proc\/no\/runs: .*cannot be made/);
  });

  it('a model of its own whose logits are too few for the data', async () => {
    const model = {
      layers: [{ name: 'embed', module: nn.embedding(64, 3) }],
      loss: nn.crossEntropy(),
    };
    const info = {
      inputs: [{ dtype: 'int32', shape: [4] }],
      targets: [{ dtype: 'int32', shape: [4] }],
      vocabSize: 64,
    } as const;
    expect(() => modelFunctions(model, info, 2, 'train')).toThrow(
      /"embed": returned float32 \[2,4,3\], 3 logits, but the targets are of 64 kinds.*info.vocabSize/,
    );
  });

  it('the name of a run that is there already', async () => {
    const warned: string[] = [];
    await complete(
      train(resolveConfig(file, ['batch.global=400', 'batch.micro=100', 'remat={blocks.7: full, blocks.0: full}'])),
      (event) => {
        if (event.type === 'warning') warned.push(event.message);
      },
    );
    expect(warned).toContainEqual(expect.stringMatching(/batch.global 400 is more than the \d+ training examples/));
    expect(warned).toContainEqual(expect.stringMatching(/remat: 'blocks.7' has no effect.*embed, blocks.0, head/));
    expect(warned.join()).not.toContain("'blocks.0'");
    expect(String(await refusal())).toMatch(
      /config.yaml:4:\d+: .*taken exists already: choose another run.id.*\n.*run:/,
    );
  });
});
