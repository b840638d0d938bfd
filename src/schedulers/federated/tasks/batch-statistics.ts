import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { layerKey } from '../../../modules/index.ts';
import { modelFunction } from '../../local/index.ts';
import { clientBatches } from '../client-batches.ts';
import type { ClientQuestion, ClientTask, ClientTaskContext } from './client-task.ts';

const schema = z.object({
  /** Batches of the client's data to look at, at most. */
  batches: z.int().min(1),
});

/**
 * Statistics of normalisation layers as a client's own data make them: the means of what its batches contribute to the module
 * state, with the parameters it was given. Batches that are smaller than the job's are left out where there is a full one.
 * Answers with a vector in the layout of module state.
 */
export const batchStatistics: ClientTask = {
  name: 'batch-statistics',
  run: async (question, context) => {
    const { batches } = schema.parse(question.config);
    const { engine, dataset, trainer, job } = context;
    const at = context.open(question.start);
    const mean = new Float64Array(trainer.stateLayout.size);
    const chosen = taskBatches(question, context, batches);
    for (const examples of chosen) {
      const executable = await context.once(`statistics of ${examples.length}`, () =>
        compile(context, examples.length),
      );
      const { inputs } = dataset.split('train').batch(examples);
      const key = layerKey(job.seed, 0, question.client, `statistics ${question.round}`);
      const outputs = await executable.run([
        ...at.params,
        ...at.state,
        engine.upload(key),
        ...inputs.map((tensor) => engine.upload(tensor)),
      ]);
      for (const [i, place] of trainer.stateLayout.places.entries()) {
        const { data } = await engine.download(outputs[i] as (typeof outputs)[number]);
        for (let k = 0; k < place.size; k++)
          mean[place.offset + k] = (mean[place.offset + k] as number) + (data[k] as number) / chosen.length;
      }
    }
    return Float32Array.from(mean);
  },
};

/** The client's batches of its epoch 0 of the round, of the job's size where it has so many examples. */
export function taskBatches({ round, client, examples }: ClientQuestion, { job }: ClientTaskContext, most: number) {
  const { seed, batch } = job;
  const all = clientBatches({ seed, round, client, examples, epochs: 1, batch, maxSteps: null });
  const full = all.filter(({ length }) => length === batch);
  return (full.length > 0 ? full : all).slice(0, most);
}

function compile({ engine, model, dataset, trainer }: ClientTaskContext, batch: number) {
  const made = modelFunction(model, dataset.info, batch, { training: true });
  const like = ({ spec }: { readonly spec: { readonly shape: readonly number[] } }) =>
    ({ dtype: 'float32', shape: spec.shape }) as const;
  return engine.compile(
    (...given) => {
      const params = new Map(made.params.map(({ path }) => [path, given.shift() as tf.Tensor]));
      const state = new Map(made.state.map(({ path }) => [path, given.shift() as tf.Tensor]));
      const [key, ...inputs] = given as [tf.Tensor, ...tf.Tensor[]];
      const { contributions } = made.forward({ params, state, key, inputs });
      // (Added to 0, because an output must be a value of its own.)
      return trainer.stateLayout.places.map(({ path }) =>
        tf.add(contributions.get(path) ?? (state.get(path) as tf.Tensor), 0),
      );
    },
    [...made.params.map(like), ...made.state.map(like), { dtype: 'int32', shape: [2] }, ...made.inputs],
    { name: `statistics of ${batch}` },
  );
}

/** Weighted mean of vectors in the layout of module state. */
export function meanVector(vectors: readonly Float32Array[], weights: readonly number[]): Float32Array {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return Float32Array.from({ length: vectors[0]?.length ?? 0 }, (_, i) =>
    vectors.reduce((sum, vector, k) => sum + ((vector[i] as number) * (weights[k] as number)) / total, 0),
  );
}
