import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { optimizerShares, paramsOfStage, positionOf } from '../../src/plan/index.ts';
import { readSafetensors } from '../../src/tensor/index.ts';
import { createRanks, PROGRESS_FIELDS, runInProcess, type ShardReport } from '../../src/worker/index.ts';
import { type JobOptions, makeJobs } from './jobs.ts';

let engine: Engine;
let folder: string;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
  folder = await mkdtemp(join(tmpdir(), 'plexus-worker-'));
});
afterAll(async () => {
  await engine.dispose();
  await rm(folder, { recursive: true, force: true });
});

const moe: JobOptions = {
  model: { layers: 2, dim: 8, heads: 2, moe: { experts: 4, top_k: 2, every: 1, hidden: 8, bias_rate: 0.01 } },
};
const sharded: JobOptions = { ...moe, parallel: { data: 2, pipeline: 2, expert: 2 } };

/** Runs some steps and writes a checkpoint as the coordinator would. */
async function runAndSave(options: JobOptions, steps: number, name: string, checkpoint: string | null = null) {
  const { jobs, overrides } = await makeJobs({ ...options, job: { checkpoint } });
  const dir = await mkdtemp(join(folder, name));
  let shards: ShardReport[] = [];
  const result = await runInProcess(jobs, steps, {
    overrides: { ...overrides, engine },
    finally: async (ranks) => {
      shards = (await Promise.all(ranks.map((rank) => rank.checkpoint(dir)))).flat();
    },
  });
  await writeFile(join(dir, 'index.json'), JSON.stringify({ step: (checkpoint ? 2 : 0) + steps, shards }));
  return { ...result, dir, shards };
}

describe('placement', () => {
  it('gives each rank only its share, and all of them together everything once a replica', async () => {
    const { jobs, overrides, plan } = await makeJobs(sharded);
    const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
    try {
      const whole = plan.summary.layers.flatMap((layer) => [
        ...layer.params,
        ...layer.expertCalls.flatMap((call) => call.experts.flat()),
      ]);
      const total = whole.reduce((sum, { bytes }) => sum + bytes, 0);
      for (const rank of ranks) {
        const { params, paramBytes, optimizerBytes } = rank.ready;
        expect(paramBytes).toBeLessThan(0.6 * total);
        const { data } = positionOf(plan.mesh, rank.rank);
        const placed = (plan.programs[rank.rank]?.stages ?? []).flatMap((stage) =>
          paramsOfStage(plan.summary, plan.mesh, stage, data),
        );
        expect([...params].sort()).toEqual(placed.map(({ path }) => path).sort());
        expect(paramBytes).toBe(placed.reduce((sum, { bytes }) => sum + bytes, 0));
        // Sharded state: as the plan says, and as the planner and the rank reckon apart from each other.
        expect(optimizerBytes).toBe(optimizerShares(plan.summary, plan)(rank.rank).optimizerBytes);
        expect(Object.keys(await rank.parameters()).sort()).toEqual([...params].sort());
      }
      expect(ranks.reduce((sum, rank) => sum + rank.ready.optimizerBytes, 0)).toBe(2 * total);
      expect(new Set(ranks.flatMap((rank) => rank.ready.params))).toEqual(new Set(whole.map(({ path }) => path)));
      const experts = ranks.map((rank) => rank.ready.params.filter((path) => path.includes('.experts.')));
      expect(experts[0]?.some((path) => experts[1]?.includes(path))).toBe(false);
    } finally {
      await dispose();
    }
  });
});

describe('checkpoints', () => {
  it('saved on one mesh and resumed on another go on to the same bits', async () => {
    const straight = await runAndSave(moe, 4, 'straight');
    const firstHalf = await runAndSave(sharded, 2, 'sharded');
    for (const parallel of [{}, { data: 4, expert: 4 }, { pipeline: 3 }]) {
      const resumed = await runAndSave({ ...moe, parallel }, 2, 'resumed', firstHalf.dir);
      expect(resumed.weightsSha256).toBe(straight.weightsSha256);
      expect(resumed.losses).toEqual(straight.losses.slice(2));
      expect(resumed.reports[0]?.[0]?.step).toBe(2);
    }
  });

  it('hold each tensor once, with the hash and names that are reported', async () => {
    const { shards, dir } = await runAndSave(sharded, 1, 'once');
    const names = shards.flatMap(({ tensors }) => tensors);
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((name) => name.startsWith('state/')).length).toBeGreaterThan(0);
    expect(names.filter((name) => name.startsWith('optim/')).length).toBe(
      2 * names.filter((name) => name.startsWith('param/')).length,
    );
    for (const { file, tensors, sha256 } of shards) {
      const read = await readSafetensors(join(dir, file));
      expect(Object.keys(read.tensors).sort()).toEqual([...tensors].sort());
      expect(sha256).toMatch(/^[0-9a-f]{64}$/);
    }
  });

  it('of another model are refused by name', async () => {
    const { dir } = await runAndSave(moe, 1, 'other');
    const { jobs, overrides } = await makeJobs({ model: { layers: 3, dim: 8, heads: 2 }, job: { checkpoint: dir } });
    await expect(createRanks(jobs, { ...overrides, engine })).rejects.toThrow(
      /has no tensor "param\/blocks\..*another model/,
    );
    const wider = await makeJobs({ model: { layers: 2, dim: 16, heads: 2 }, job: { checkpoint: dir } });
    await expect(createRanks(wider.jobs, { ...wider.overrides, engine })).rejects.toThrow(
      /is float32 \[.*another model/,
    );
  });
});

describe('evaluation', () => {
  it('gives every microbatch once and the same values on every mesh', async () => {
    const evaluate = async (parallel: JobOptions['parallel'], max: number | null) => {
      const { jobs, overrides } = await makeJobs({ ...moe, parallel });
      const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
      try {
        const all = await Promise.all(ranks.map((rank) => rank.evaluate('validation', max)));
        return all.flatMap(({ loss }) => loss ?? []).sort((a, b) => a[0] - b[0]);
      } finally {
        await dispose();
      }
    };
    const serial = await evaluate({}, null);
    expect(serial.map(([microbatch]) => microbatch)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    for (const parallel of [
      { data: 3 },
      { pipeline: 2, schedule: 'interleaved-1f1b' },
      { data: 2, pipeline: 2, expert: 2 },
    ]) {
      expect(await evaluate(parallel, null)).toEqual(serial);
      expect(await evaluate(parallel, 3)).toEqual(serial.slice(0, 3));
    }
  });

  it('of chosen examples has the microbatches that were asked for', async () => {
    const examples = Int32Array.from({ length: 8 }, (_, i) => i);
    const evaluate = async (parallel: JobOptions['parallel'], micro: number) => {
      const { jobs, overrides } = await makeJobs({ model: { layers: 2, dim: 8, heads: 2 }, parallel });
      const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
      try {
        const chosen = { examples, metrics: ['loss'], micro };
        const all = await Promise.all(ranks.map((rank) => rank.evaluate('validation', null, chosen)));
        return all.flatMap(({ loss }) => loss ?? []).sort((a, b) => a[0] - b[0]);
      } finally {
        await dispose();
      }
    };
    const mean = (leaves: readonly (readonly [number, unknown])[]) =>
      leaves.reduce((sum, [, value]) => sum + (value as number), 0) / leaves.length;
    const whole = await evaluate({}, 8);
    expect(whole.map(([microbatch]) => microbatch)).toEqual([0]);
    const halves = await evaluate({}, 4);
    expect(halves.map(([microbatch]) => microbatch)).toEqual([0, 1]);
    expect(mean(halves)).toBeCloseTo(mean(whole), 5);
    for (const parallel of [{ data: 2 }, { pipeline: 2 }]) expect(await evaluate(parallel, 4)).toEqual(halves);
  });
});

describe('traces and progress', () => {
  it('record each instruction, and leave the position in shared memory', async () => {
    const progress = new SharedArrayBuffer(4 * PROGRESS_FIELDS.length);
    const { jobs, overrides } = await makeJobs({ job: { trace: true, progress } });
    const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
    try {
      await ranks[0]?.step(0);
      const events = ranks[0]?.traceEvents() as { ph: string; cat: string; dur: number }[];
      expect(events.filter(({ ph }) => ph === 'X')).toHaveLength(jobs[0]?.train.instructions.length as number);
      expect(new Int32Array(progress)[2]).toBe(-1);
      expect(new Int32Array(progress)[3]).toBe((jobs[0]?.train.instructions.length as number) + 1);
    } finally {
      await dispose();
    }
  });
});
