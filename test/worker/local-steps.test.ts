import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compressionSchema } from '../../src/comm/index.ts';
import { optimSchema } from '../../src/optim/index.ts';
import { instructionsOf, localPlan } from '../../src/plan/index.ts';
import { createRanks, type Rank, type StepReport, type WorkerJob } from '../../src/worker/index.ts';
import { type JobOptions, makeJobs, mlpModel, vectorDataset } from './jobs.ts';

const dataset = vectorDataset(5, 64);
const average = optimSchema.parse({ name: 'sgd', lr: 1, momentum: 0 });
const nesterov = optimSchema.parse({ name: 'sgd', lr: 0.7, momentum: 0.9, nesterov: true });

/** Jobs of local steps: what `local-sgd` makes of a config. */
async function localJobs(every: number, outerOptim: unknown, options: JobOptions) {
  const { jobs, overrides, plan } = await makeJobs({ dataset, model: mlpModel(5, 16, 4), ...options });
  const local = localPlan(plan, every);
  return {
    overrides,
    jobs: jobs.map((job, rank): WorkerJob => ({ ...job, train: local.programs[rank] as never, outerOptim })),
  };
}

async function steps(ranks: readonly Rank[], from: number, to: number): Promise<StepReport[][]> {
  const reports: StepReport[][] = [];
  for (let step = from; step < to; step++) reports.push(await Promise.all(ranks.map((rank) => rank.step(step))));
  return reports;
}

const parametersOf = (ranks: readonly Rank[]) => Promise.all(ranks.map((rank) => rank.parameters()));

const lossesOf = (reports: StepReport[][]) =>
  reports.map((step) => step.flatMap(({ metrics }) => metrics.loss ?? []).sort(([a], [b]) => a - b));

const sgd: JobOptions = { optim: { name: 'sgd', lr: 0.05, momentum: 0 }, batch: { global: 16, micro: 2 } };

describe('local steps', () => {
  it.each([2, 3, 4])(
    'one step of SGD and plain averaging are synchronous SGD, up to rounding: %i replicas',
    async (data) => {
      // Equal shares: the mean of the replicas' means is then the mean over the batch.
      const batch = { global: 24, micro: 2 };
      const sync = await makeJobs({ dataset, model: mlpModel(5, 16, 4), ...sgd, batch, parallel: { data } });
      const local = await localJobs(1, average, { ...sgd, batch, parallel: { data } });
      const a = await createRanks(sync.jobs, sync.overrides);
      const b = await createRanks(local.jobs, local.overrides);
      try {
        await steps(a.ranks, 0, 6);
        await steps(b.ranks, 0, 6);
        const [expected] = await parametersOf(a.ranks);
        for (const got of await parametersOf(b.ranks))
          for (const [path, { data: values }] of Object.entries(expected ?? {}))
            values.forEach((value, i) => {
              expect(Math.abs(Number(got[path]?.data[i]) - Number(value)), path).toBeLessThan(2e-6);
            });
      } finally {
        await a.dispose();
        await b.dispose();
      }
    },
  );

  it('exchanges nothing within a round, and ends it with equal replicas', async () => {
    const { jobs, overrides } = await localJobs(4, nesterov, { ...sgd, optim: { lr: 0.01 }, parallel: { data: 2 } });
    const { ranks, dispose } = await createRanks(jobs, overrides);
    try {
      const reports = await steps(ranks, 0, 3);
      expect(reports.flat().map(({ commBytes }) => commBytes)).toEqual(new Array(6).fill(0));
      const [a, b] = await parametersOf(ranks);
      expect(a).not.toEqual(b);
      const [last] = await steps(ranks, 3, 4);
      expect(last?.every(({ commBytes }) => commBytes > 0)).toBe(true);
      const [c, d] = await parametersOf(ranks);
      expect(c).toEqual(d);
    } finally {
      await dispose();
    }
  });

  it.each([
    ['Nesterov', { data: 2 }, null],
    ['a pipeline in each replica', { data: 2, pipeline: 2 }, null],
    ['int8', { data: 3 }, { gradients: 'int8' }],
    ['top-k', { data: 2 }, { gradients: 'topk', topk_ratio: 0.1 }],
  ])(
    '%s: learns; equal bits from a seed, and from a checkpoint in the middle of a round',
    async (_, parallel, codec) => {
      const options: JobOptions = {
        optim: { lr: 0.01 },
        batch: { global: 16, micro: 2 },
        parallel,
        job: codec ? { compression: compressionSchema.parse(codec) } : {},
      };
      const make = () => localJobs(4, nesterov, options);
      const run = async (from: string | null, first: number, until: number, save?: { at: number; folder: string }) => {
        const { jobs, overrides } = await make();
        const { ranks, dispose } = await createRanks(
          jobs.map((job) => ({ ...job, checkpoint: from })),
          overrides,
        );
        try {
          const reports = await steps(ranks, first, save?.at ?? until);
          if (save) {
            const shards = (await Promise.all(ranks.map((rank) => rank.checkpoint(save.folder)))).flat();
            await writeFile(join(save.folder, 'index.json'), JSON.stringify({ step: save.at, shards }));
            reports.push(...(await steps(ranks, save.at, until)));
          }
          return { losses: lossesOf(reports), parameters: await parametersOf(ranks), step: ranks[0]?.ready.step };
        } finally {
          await dispose();
        }
      };
      const folder = await mkdtemp(join(tmpdir(), 'plexus-local-'));
      try {
        const whole = await run(null, 0, 24, { at: 10, folder });
        const again = await run(null, 0, 24);
        expect(again.losses).toEqual(whole.losses);
        expect(again.parameters).toEqual(whole.parameters);
        const resumed = await run(folder, 10, 24);
        expect(resumed.step).toBe(10);
        expect(resumed.losses).toEqual(whole.losses.slice(10));
        expect(resumed.parameters).toEqual(whole.parameters);
        const mean = (step: number) => (whole.losses[step] ?? []).reduce((sum, [, loss]) => sum + Number(loss), 0) / 8;
        expect((mean(22) + mean(23)) / 2).toBeLessThan(0.7 * ((mean(0) + mean(1)) / 2));
      } finally {
        await rm(folder, { recursive: true });
      }
    },
  );

  it('leaves the end of a round out of the steps before', async () => {
    const { plan } = await makeJobs({ dataset, model: mlpModel(5, 16, 4), parallel: { data: 2, pipeline: 2 } });
    for (const program of localPlan(plan, 5).programs) {
      const ops = program.instructions.map(({ op }) => op);
      const inner = instructionsOf(program, 0);
      expect(ops.slice(0, inner)).not.toContain('AllReduce');
      expect(ops.slice(inner)).toEqual([...program.stages.map(() => 'AllReduce'), 'Optimize']);
      expect([3, 4, 5, 9].map((step) => instructionsOf(program, step) > inner)).toEqual([false, true, false, true]);
    }
  });
});
