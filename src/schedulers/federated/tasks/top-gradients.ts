import * as z from 'zod';
import { tf, valueAndGradients } from '../../../engine/index.ts';
import { layerKey } from '../../../modules/index.ts';
import { modelFunction } from '../../local/index.ts';
import { taskBatches } from './batch-statistics.ts';
import type { ClientTask, ClientTaskContext } from './client-task.ts';

const schema = z.object({
  /** The parameter whose gradient is looked at. */
  path: z.string(),
  /** Places of it that count: 1 for those that may be answered with. */
  eligible: z.instanceof(Uint8Array),
  /** Places to answer with at most. */
  count: z.int().min(0),
  /** Batches of the client's data that the gradient is the mean of, at most. */
  batches: z.int().min(1),
});

/** Places of a parameter where a client's gradient is largest, in rising order of the places, and the gradient there. */
export interface TopGradients {
  readonly places: Int32Array;
  readonly values: Float32Array;
}

/**
 * The largest gradients of one parameter among some of its places: what a client of FedTiny sends of weights that are pruned. The
 * client never holds more than one layer's gradient, and sends 8 bytes a place.
 */
export const topGradients: ClientTask = {
  name: 'top-gradients',
  run: async (question, context): Promise<TopGradients> => {
    const { path, eligible, count, batches } = schema.parse(question.config);
    const { engine, dataset, job } = context;
    const at = context.open(question.start);
    const sum = new Float64Array(eligible.length);
    for (const examples of taskBatches(question, context, batches)) {
      const name = `gradient of ${path}, ${examples.length}`;
      const executable = await context.once(name, () => compile(context, path, examples.length, name));
      const { inputs, targets } = dataset.split('train').batch(examples);
      const key = layerKey(job.seed, 0, question.client, `gradient ${question.round}`);
      const [gradient] = await executable.run([
        ...at.params,
        ...at.state,
        ...[key, ...inputs, ...targets].map((tensor) => engine.upload(tensor)),
      ]);
      const { data } = await engine.download(gradient as NonNullable<typeof gradient>);
      for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (data[i] as number);
    }
    return largest(sum, eligible, count);
  },
};

/** The largest values by magnitude among eligible places; of equal ones the earliest. */
export function largest(values: ArrayLike<number>, eligible: Uint8Array, count: number): TopGradients {
  const places: number[] = [];
  for (let i = 0; i < eligible.length; i++) if (eligible[i] === 1) places.push(i);
  places.sort((a, b) => Math.abs(values[b] as number) - Math.abs(values[a] as number) || a - b);
  const chosen = Int32Array.from(places.slice(0, count)).sort();
  return { places: chosen, values: Float32Array.from(chosen, (i) => values[i] as number) };
}

function compile({ engine, model, dataset }: ClientTaskContext, path: string, batch: number, name: string) {
  const made = modelFunction(model, dataset.info, batch, { training: true });
  const like = ({ spec }: { readonly spec: { readonly shape: readonly number[] } }) =>
    ({ dtype: 'float32', shape: spec.shape }) as const;
  return engine.compile(
    (...given) => {
      const params = new Map(made.params.map((param) => [param.path, given.shift() as tf.Tensor]));
      const state = new Map(made.state.map((each) => [each.path, given.shift() as tf.Tensor]));
      const key = given.shift() as tf.Tensor;
      const inputs = given.splice(0, made.inputs.length);
      const of = params.get(path);
      if (!of) throw new Error(`the model has no parameter "${path}"`);
      const { gradients } = valueAndGradients(
        () => {
          const { outputs, auxiliary } = made.forward({ params, state, key, inputs });
          return tf.add(made.loss(outputs, given), auxiliary) as tf.Tensor;
        },
        (loss) => loss,
        [of],
      );
      return gradients;
    },
    [
      ...made.params.map(like),
      ...made.state.map(like),
      { dtype: 'int32', shape: [2] },
      ...made.inputs,
      ...made.targets,
    ],
    { name },
  );
}
