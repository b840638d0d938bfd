import { describe, expect, it } from 'vitest';
import { tensorNeeds } from '../../src/coordinator/index.ts';
import { buildOptimizer, optimSchema } from '../../src/optim/index.ts';
import { createRanks } from '../../src/worker/index.ts';
import { makeJobs, mlpModel, vectorDataset } from '../worker/jobs.ts';

const moe = { layers: 2, dim: 8, heads: 2, moe: { experts: 4, top_k: 2, hidden: 8, every: 1 } };
const cases = {
  'dense, data-parallel': { parallel: { data: 2 } },
  'dense, stages': { parallel: { data: 2, pipeline: 2 } },
  'experts, sharded optimizer state': { model: moe, parallel: { data: 4, expert: 2, zero: 1 } },
  'experts, all of the state everywhere': { model: moe, parallel: { data: 4, expert: 2, pipeline: 2, zero: 0 } },
  vectors: { model: mlpModel(), dataset: vectorDataset(), parallel: { data: 2, zero: 1 } },
} as const;

describe('tensorNeeds', () => {
  it.each(Object.entries(cases))('names exactly what ranks hold: %s', async (_, options) => {
    const { jobs, overrides, plan } = await makeJobs(options as never);
    const { optimizer } = buildOptimizer(optimSchema.parse({ name: 'adamw', lr: 0.01 }), { totalSteps: 100 });
    const needs = tensorNeeds(overrides.model!, { optimizer, outer: null, residuals: false }, plan);
    const { ranks, dispose } = await createRanks(jobs, overrides);
    try {
      for (const [rank, held] of ranks.entries()) {
        const expected = held
          .snapshots()
          .tensors.map(({ name, shape }) => `${name} ${shape}`)
          .sort();
        expect(needs[rank]?.map(({ name, shape }) => `${name} ${shape}`).sort()).toEqual(expected);
      }
    } finally {
      await dispose();
    }
  });
});
