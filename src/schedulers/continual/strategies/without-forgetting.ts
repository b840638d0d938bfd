import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import { composeTasks } from '../compose.ts';
import { distillationLoss, firstPositions, maskOf, outputsSoFar, softened, teacherRows } from '../distillation.ts';
import { crossEntropies, FEATURES, OUTPUTS, withFeatures } from '../loss.ts';
import type { ScenarioShape } from '../scenario.ts';
import { type ComposeGiven, registerContinual } from '../strategy.ts';

type Tensor = tf.Tensor;

/** What the model of before says of an example, and how much that counts. */
const TEACHER = 'teacher';
const PULL = 'pull';

/** New examples only, each with the row that the model of before fills in. */
function compose(
  given: ComposeGiven,
  weights: (task: number) => { readonly labels: number; readonly pull: number },
): void {
  const rowOf = teacherRows();
  const { shape } = given.scenario;
  composeTasks(given, {
    fresh: given.global,
    step: (seen, { task }) => {
      const { labels, pull } = weights(task);
      // Outputs of tasks to come take no part.
      const outputs = shape.taskKnown ? {} : { outputs: outputsSoFar(shape, task) };
      return seen.map((each) => ({
        ...each,
        weight: labels,
        ...outputs,
        marks: { [TEACHER]: rowOf(task, each), [PULL]: pull },
      }));
    },
  });
}

const lwfSchema = z.object({
  temperature: z.number().positive().default(2).describe('what logits are divided by before answers are compared'),
  over: z
    .enum(['known', 'all'])
    .default('all')
    .describe(
      'outputs that answers are compared over: those that the model of before was trained on, or all so far, where it gave new ones nothing',
    ),
  alpha: z
    .number()
    .min(0)
    .optional()
    .describe(
      'weight of the distance to the answers of before, beside a loss of weight 1; default: in the t-th task labels weigh 1/t and it 1 - 1/t',
    ),
  average: z
    .boolean()
    .default(false)
    .describe(
      'whether the distance is a mean over the outputs that it compares, not their sum: with more classes they then hold back new ones less',
    ),
});

/**
 * Learning without forgetting (Li and Hoiem, 2016, equation 1): on new examples the model should still say what the model of before
 * said. Weights and softened answers by default as in van de Ven and Tolias, Three scenarios for continual learning, 2019, appendix A.2;
 * the authors' code took means over the outputs (`average`) when the paper came out, so its tables probably have them, and sums from a
 * month later on.
 */
registerContinual({
  name: 'lwf',
  config: lwfSchema,
  targets: (_, { outputs }) => [
    { name: TEACHER, dtype: 'float32', shape: [outputs] },
    { name: PULL, dtype: 'float32', shape: [] },
  ],
  loss: ({ temperature, over }, { taskKnown, outputsOf, outputs }) => ({
    of: (given) => {
      const before = given.targets[TEACHER] as Tensor;
      // Where the task is known each earlier one has a softmax of its own.
      const groups = taskKnown ? outputsOf : [outputsOf.flat()];
      const distances =
        over === 'all' && !taskKnown
          ? distillationLoss(given.logits, tf.maximum(before, 0), { masks: [given.mask], temperature })
          : distillationLoss(given.logits, before, { masks: groups.map((own) => maskOf(own, outputs)), temperature });
      const pulls = tf.mul(given.targets[PULL] as Tensor, distances);
      return tf.mean(tf.add(tf.mul(given.weights, crossEntropies(given)), pulls));
    },
  }),
  compose: (given, { alpha, average, over }) =>
    compose(given, (task) => {
      if (task === 0) return { labels: 1, pull: 0 };
      const { shape } = given.scenario;
      const compared = shape.taskKnown
        ? (shape.outputsOf[task] ?? [])
        : outputsSoFar(shape, over === 'all' ? task : task - 1);
      const size = average ? compared.length : 1;
      return alpha === undefined
        ? { labels: 1 / (task + 1), pull: task / (task + 1) / size }
        : { labels: 1, pull: alpha / size };
    }),
  beforeTask: async (start, { temperature }) => {
    const { task, scenario, predict, fill } = start;
    if (task === 0) return;
    const { taskKnown, outputsOf, outputs } = scenario.shape;
    const rows = await predict(firstPositions(start, TEACHER));
    const groups = taskKnown ? outputsOf.slice(0, task) : [outputsSoFar(scenario.shape, task - 1)];
    fill(TEACHER, 0, softened(rows[OUTPUTS] as Float32Array, { width: outputs, groups, temperature }));
  },
});

/** Parameters with 1 in the slot `frozen` stay. */
const frozen: ParamRule = {
  name: 'lfl',
  slots: () => ['frozen'],
  settle: ({ param, updated, slots }) => tf.where(tf.greater(slots.frozen as Tensor, 0.5), param, updated),
};

/** @throws RangeError if nothing says how wide the features are */
function featureWidth({ features }: ScenarioShape): number {
  if (features !== null) return features;
  throw new RangeError(
    'lfl compares what goes into the last layer, which must be one linear map: use model mlp or cnn, say',
  );
}

/**
 * Less-forgetful learning (Jung et al., Less-forgetting learning in deep neural networks, 2016, equation 2): the classifier stays as
 * the first task has left it, and features of new examples stay near those of the model of before.
 */
registerContinual({
  name: 'lfl',
  config: z.object({
    lambda: z
      .number()
      .min(0)
      .default(0.1)
      .describe('weight of half the squared distance between features of now and of before'),
  }),
  features: true,
  targets: (_, shape) => [
    { name: TEACHER, dtype: 'float32', shape: [featureWidth(shape)] },
    { name: PULL, dtype: 'float32', shape: [] },
  ],
  model: withFeatures,
  loss: () => ({
    of: (given) => {
      const distance = tf.sum(tf.squaredDifference(given.features as Tensor, given.targets[TEACHER] as Tensor), 1);
      const pulls = tf.mul(given.targets[PULL] as Tensor, tf.div(distance, 2));
      return tf.mean(tf.add(tf.mul(given.weights, crossEntropies(given)), pulls));
    },
  }),
  rule: () => frozen,
  transitions: () => ({
    freeze: ({ info, slots }, layer) => {
      if (info.path.startsWith(`${layer}.`)) (slots['lfl.frozen'] as Float32Array).fill(1);
    },
  }),
  compose: (given, { lambda }) => compose(given, (task) => ({ labels: 1, pull: task === 0 ? 0 : lambda })),
  beforeTask: async (start) => {
    if (start.task === 0) return;
    const rows = await start.predict(firstPositions(start, TEACHER), [FEATURES]);
    start.fill(TEACHER, 0, rows[FEATURES] as Float32Array);
  },
  afterTask: async ({ task, model, transition }) => {
    if (task === 0) await transition('freeze', model.layers.at(-1)?.name);
  },
});
