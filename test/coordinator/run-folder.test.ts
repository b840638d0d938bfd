import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { appendFile, mkdir, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import {
  CheckpointError,
  CheckpointReader,
  createRunFolder,
  findRunFolder,
  listCheckpoints,
  lockRun,
  MetricsLog,
  newestCheckpoint,
  PARAM_PREFIX,
  pruneCheckpoints,
  readMetrics,
  saveCheckpoint,
  verifyCheckpoint,
} from '../../src/coordinator/run/index.ts';
import { float32, type HostTensor, sha256Of, writeSafetensors } from '../../src/tensor/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-run-'));
afterAll(() => rmSync(root, { recursive: true }));
let folder = '';
let count = 0;
beforeEach(async () => {
  folder = join(root, `c${count++}`);
  await mkdir(folder);
});

const info = (step: number) => ({
  step,
  seed: 1,
  batch: { global: 8, micro: 2 },
  engine: 'test',
  mesh: { data: 1, pipeline: 1, expert: 1 },
  wall_s: 1.5,
  recoveries: 0,
});
const weights: Record<string, HostTensor> = {
  'head.weight': float32([1, 2, 3, 4], [2, 2]),
  'embed.weight': float32([5, 6], [2]),
  'blocks.10.bias': float32([7], [1]),
  'blocks.2.bias': float32([-0, Number.EPSILON], [2]),
};

/** Saves `weights` in two shards, with an optimizer slot that must not enter the hash. */
async function save(step: number): Promise<string> {
  const { path } = await saveCheckpoint(folder, info(step), async (temporary) => {
    const entries = Object.entries(weights).map(([path, tensor]) => [PARAM_PREFIX + path, tensor] as const);
    const shards = [
      entries.slice(0, 2),
      [...entries.slice(2), ['slot/head.weight/m', float32([9, 9, 9, 9], [2, 2])] as const],
    ];
    return Promise.all(
      shards.map(async (tensors, i) => {
        const file = `rank-${i}.safetensors`;
        const { sha256 } = await writeSafetensors(join(temporary, file), Object.fromEntries(tensors));
        return { file, sha256, tensors: tensors.map(([name]) => name) };
      }),
    );
  });
  return path;
}

describe('checkpoints', () => {
  it('appear whole under their name, and read back', async () => {
    const path = await save(3);
    expect(await readdir(folder)).toEqual(['step-3']);
    const index = await verifyCheckpoint(path);
    expect(index).toMatchObject({ step: 3, seed: 1, batch: { global: 8, micro: 2 } });
    const reader = await CheckpointReader.open(path, index);
    expect(reader.params()).toEqual(['blocks.10.bias', 'blocks.2.bias', 'embed.weight', 'head.weight']);
    expect((await reader.read('param/embed.weight')).data).toEqual(new Float32Array([5, 6]));
    expect(await reader.weightsSha256()).toBe(sha256Of(weights));
    await expect(reader.read('param/embed.wieght')).rejects.toThrow(/nearest: 'param\/embed.weight'/);
    await reader.close();
  });

  it('leave nothing behind when writing fails', async () => {
    const failing = saveCheckpoint(folder, info(1), async (temporary) => {
      await writeFile(join(temporary, 'rank-0.safetensors'), 'half');
      throw new Error('disk full');
    });
    await expect(failing).rejects.toThrow('disk full');
    expect(await readdir(folder)).toEqual([]);
  });

  it('are replaced by a later save of the same step', async () => {
    await save(1);
    const path = await save(1);
    expect(await readdir(folder)).toEqual(['step-1']);
    await verifyCheckpoint(path);
  });

  it('are pruned to the newest ones, with the temporary folders of crashed writers', async () => {
    for (const step of [5, 10, 100]) await save(step);
    await mkdir(join(folder, '.step-7.123.tmp'));
    expect(await listCheckpoints(folder)).toEqual([100, 10, 5]);
    await pruneCheckpoints(folder, 2);
    expect((await readdir(folder)).sort()).toEqual(['step-10', 'step-100']);
  });

  const damages: readonly (readonly [string, (path: string) => Promise<void>, RegExp])[] = [
    [
      'a truncated shard',
      (p) => truncate(join(p, 'rank-0.safetensors'), 50),
      /rank-0\.safetensors has 50 bytes.*truncated/,
    ],
    [
      'a shard that grew',
      (p) => appendFile(join(p, 'rank-1.safetensors'), 'x'),
      /rank-1.*not the one that was written/,
    ],
    [
      'a flipped bit',
      async (p) => {
        const file = join(p, 'rank-0.safetensors');
        const bytes = await readFile(file);
        bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) ^ 1;
        await writeFile(file, bytes);
      },
      /content of rank-0\.safetensors has changed/,
    ],
    ['a missing shard', (p) => rm(join(p, 'rank-0.safetensors')), /rank-0\.safetensors is missing/],
    ['no index', (p) => rm(join(p, 'index.json')), /has no index\.json/],
    ['a truncated index', (p) => truncate(join(p, 'index.json'), 30), /not valid JSON/],
    [
      'an index of another format',
      (p) => writeFile(join(p, 'index.json'), '{"format": 7}'),
      /format 7.*reads format 1/,
    ],
    ['a damaged index', (p) => writeFile(join(p, 'index.json'), '{"format": 1, "step": "x"}'), /'step'/],
  ];
  for (const [title, damage, message] of damages)
    it(`with ${title} are refused, and the one before is taken with a warning`, async () => {
      const old = await save(10);
      const path = await save(20);
      await damage(path);
      await expect(verifyCheckpoint(path)).rejects.toThrow(message);
      const usable = await newestCheckpoint(folder);
      expect(usable.path).toBe(old);
      expect(usable.warnings).toHaveLength(1);
      expect(usable.warnings[0]).toMatch(message);
      await expect(newestCheckpoint(folder, 20)).rejects.toThrow(message);
    });

  it('are named when there is none that could be used', async () => {
    await expect(newestCheckpoint(folder)).rejects.toThrow(/no checkpoint in/);
    await expect(newestCheckpoint(join(folder, 'nowhere'))).rejects.toThrow(CheckpointError);
    const path = await save(1);
    await rm(join(path, 'index.json'));
    await expect(newestCheckpoint(folder)).rejects.toThrow(/is whole[\s\S]*index\.json/);
    await expect(newestCheckpoint(folder, 4)).rejects.toThrow(/no checkpoint of step 4.*there are: 1/);
  });

  it('of another model are refused with the names that differ and the nearest ones', async () => {
    const path = await save(1);
    const reader = await CheckpointReader.open(path, await verifyCheckpoint(path));
    const model = [
      { path: 'blocks.10.bias', shape: [1] },
      { path: 'blocks.2.bias', shape: [3] },
      { path: 'embed.weights', shape: [2] },
      { path: 'head.weight', shape: [2, 2] },
    ];
    expect(() => reader.checkModel(model)).toThrow(CheckpointError);
    expect(() => reader.checkModel(model)).toThrow(
      /another model[\s\S]*'embed\.weights' \[2\] is not in it \(nearest: embed\.weight\)[\s\S]*'embed\.weight', which the model lacks[\s\S]*'blocks\.2\.bias' is \[2\] in it, but \[3\]/,
    );
    reader.checkModel(Object.entries(weights).map(([p, { shape }]) => ({ path: p, shape })));
    await reader.close();
  });
});

describe('the metrics log', () => {
  const line = (step: number, loss: number) => ({ step, loss: Math.fround(loss), lr: 0.1 });
  const hashOf = (losses: number[]) =>
    createHash('sha256')
      .update(new Uint8Array(Float32Array.from(losses).buffer))
      .digest('hex');

  it('keeps float32 losses exactly and hashes them', async () => {
    const path = join(folder, 'metrics.jsonl');
    const log = await MetricsLog.open(path, 0);
    for (const [i, loss] of [0.1, 2.5, 1e-30].entries()) await log.append(line(i + 1, loss));
    expect(log.sha256()).toBe(hashOf([0.1, 2.5, 1e-30]));
    await log.close();
    await log.close();
    expect((await readMetrics(path)).map(({ loss }) => loss)).toEqual([0.1, 2.5, 1e-30].map(Math.fround));
  });

  it('continues after a checkpoint as if nothing had happened, dropping later and torn lines', async () => {
    const path = join(folder, 'metrics.jsonl');
    const first = await MetricsLog.open(path, 0);
    for (let step = 1; step <= 7; step++) await first.append(line(step, 1 / step));
    await first.close();
    await appendFile(path, '{"step": 8, "lo');
    const second = await MetricsLog.open(path, 5);
    for (let step = 6; step <= 9; step++) await second.append(line(step, 1 / step));
    const losses = Array.from({ length: 9 }, (_, i) => 1 / (i + 1));
    expect(second.sha256()).toBe(hashOf(losses));
    await second.close();
    expect((await readMetrics(path)).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('hashes a loss of -0, which JSON does not know, as the 0 that it is read back as', async () => {
    const path = join(folder, 'zero.jsonl');
    const log = await MetricsLog.open(path, 0);
    await log.append({ step: 1, loss: -0 });
    const before = log.sha256();
    await log.close();
    const again = await MetricsLog.open(path, 1);
    expect([before, again.sha256()]).toEqual([hashOf([0]), hashOf([0])]);
    await again.close();
  });

  it('refuses to continue where losses are missing', async () => {
    const path = join(folder, 'metrics.jsonl');
    const log = await MetricsLog.open(path, 0);
    await log.append(line(1, 1));
    await log.close();
    await expect(MetricsLog.open(path, 3)).rejects.toThrow(/no line for step 2.*after 3 steps/);
  });

  it('names a broken line in the middle', async () => {
    const path = join(folder, 'metrics.jsonl');
    await writeFile(path, '{"step":1,"loss":1}\nrubbish\n{"step":3,"loss":1}\n');
    await expect(readMetrics(path)).rejects.toThrow(/metrics\.jsonl:2/);
  });
});

describe('run folders', () => {
  it('get a name of their own, or the one that was asked for', async () => {
    const now = new Date('2026-03-04T05:06:07Z');
    const a = await createRunFolder(folder, 'my run!', null, now);
    const b = await createRunFolder(folder, 'my run!', null, now);
    expect([a.id, b.id]).toEqual(['my-run--20260304-050607', 'my-run--20260304-050607-2']);
    const c = await createRunFolder(folder, 'x', 'mine');
    expect(c.path).toBe(join(folder, 'mine'));
    await expect(createRunFolder(folder, 'x', 'mine')).rejects.toThrow(/exists already.*--resume/);
  });

  it('belong to one run at a time; a lock whose process is gone does not count', async () => {
    const { path } = await createRunFolder(folder, 'x', 'locked');
    const unlock = await lockRun(path);
    await expect(lockRun(path)).rejects.toThrow(/locked is going on in process \d+: wait/);
    await unlock();
    await writeFile(join(path, '.lock'), `${process.ppid}\n`);
    await expect(lockRun(path)).rejects.toThrow(`in process ${process.ppid}:`);
    await writeFile(join(path, '.lock'), '4194305\n');
    await (await lockRun(path))();
    expect(await readdir(path)).toEqual([]);
  });

  it('are found by path or id', async () => {
    const made = await createRunFolder(folder, 'x', 'r1');
    await expect(findRunFolder('r1', folder)).rejects.toThrow(/no readable config\.yaml/);
    await writeFile(made.config, 'name: x\n');
    expect((await findRunFolder('r1', folder)).path).toBe(made.path);
    expect((await findRunFolder(made.path)).path).toBe(made.path);
    await rename(made.path, join(folder, 'moved'));
    await expect(findRunFolder('r1', folder)).rejects.toThrow(/there is no run folder 'r1'/);
  });
});
