import { describe, expect, it } from 'vitest';
import { buildModel, type ModelConfig, modelSchema } from '../../src/modules/index.ts';
import type { JobOptions } from '../worker/jobs.ts';
import { pictures } from './images.ts';
import { describeCell, run, STEPS, scratch, serial } from './run.ts';

type Parallel = NonNullable<JobOptions['parallel']>;

const folder = scratch();
let saved = 0;

/** A checkpoint in the middle on one mesh, the rest on another: the end of the serial run. */
async function resumed(options: JobOptions, before: Parallel, after: Parallel, steps: number) {
  const { checkpoint, losses } = await run(
    { ...options, parallel: before },
    { steps, save: `${folder}/run-${saved++}` },
  );
  const job = { ...options.job, checkpoint };
  const rest = await run({ ...options, parallel: after, job }, { steps: STEPS - steps });
  return { losses: [...losses, ...rest.losses], ending: rest.ending, gradNorms: rest.gradNorms };
}

const experts: JobOptions = {
  model: {
    layers: 2,
    dim: 8,
    heads: 2,
    dropout: 0.1,
    moe: { experts: 4, top_k: 2, every: 1, hidden: 8, bias_rate: 0.01 },
  },
  optim: { clip_norm: 0.5, schedule: { name: 'cosine', warmup: 5 } },
};

const pairs: readonly (readonly [Parallel, Parallel])[] = [
  [{}, { data: 2, pipeline: 2, expert: 2 }],
  [{ data: 2, pipeline: 2, expert: 2 }, {}],
  [
    { data: 4, expert: 4 },
    { pipeline: 2, schedule: 'zero-bubble' },
  ],
  [
    { pipeline: 2, schedule: 'gpipe' },
    { data: 4, expert: 2 },
  ],
  [{ data: 3 }, { data: 2, expert: 2 }],
  [{ pipeline: 3 }, { data: 3 }],
  [
    { data: 4, expert: 2 },
    { data: 2, zero: 0 },
  ],
];

describe('a checkpoint of one mesh, resumed on another, ends like an undisturbed serial run', () => {
  it.each(
    pairs.map(([before, after], i) => [describeCell(before), describeCell(after), 7 + 3 * i, before, after] as const),
  )('experts, %s to %s after %i steps', async (_, __, steps, before, after) => {
    const reference = await serial('experts', experts);
    const { losses, ending, gradNorms } = await resumed(experts, before, after, steps);
    expect(losses).toEqual(reference.losses);
    expect(gradNorms).toEqual(reference.gradNorms.slice(steps));
    expect(ending).toBe(reference.ending);
  });

  it('batch norm and Muon, from data to pipeline', async () => {
    const dataset = pictures();
    const config = modelSchema.parse({ name: 'cnn', args: { channels: [4], norm: 'batch', hidden: 8 } }) as ModelConfig;
    const { model } = await buildModel(config, dataset.info);
    const options: JobOptions = { dataset, model, optim: { name: 'muon', lr: 0.01 } };
    const reference = await serial('pictures', options, { evaluate: true });
    const { checkpoint, losses } = await run(
      { ...options, parallel: { data: 3 } },
      { steps: 11, save: `${folder}/pictures` },
    );
    const rest = await run(
      { ...options, parallel: { pipeline: 2, schedule: 'zero-bubble' }, job: { checkpoint } },
      { steps: STEPS - 11, evaluate: true },
    );
    expect([...losses, ...rest.losses]).toEqual(reference.losses);
    expect(rest.ending).toBe(reference.ending);
  });
});
