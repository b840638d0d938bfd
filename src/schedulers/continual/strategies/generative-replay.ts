import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { createRng } from '../../../tensor/index.ts';
import type { Entry } from '../built-stream.ts';
import { composeTask } from '../compose.ts';
import { distillationLoss, firstPositions, maskOf, outputsSoFar, softened } from '../distillation.ts';
import { GENERATED, withGenerator } from '../generator.ts';
import { crossEntropies, OUTPUTS } from '../loss.ts';
import { type ComposeGiven, registerContinual, type TaskEnd } from '../strategy.ts';
import { inputSize } from '../stream-builder.ts';

type Tensor = tf.Tensor;

const schema = z.object({
  samples: z.int().min(1).default(5000).describe('examples that are drawn before each task to stand for those before'),
  hidden: z.int().min(1).default(400).describe("width of the generator's hidden layers"),
  latent: z.int().min(1).default(100).describe('numbers that an example is drawn from; not more than an input has'),
  deviation: z
    .number()
    .positive()
    .default(0.5)
    .describe(
      'standard deviation of inputs around what the generator draws, in units of the inputs: less makes them sharper',
    ),
  temperature: z.number().positive().default(2).describe('what logits are divided by before answers are compared'),
});
type Config = z.output<typeof schema>;

/** What the model of before says of a drawn example (row 0 is of the others), and whether it is one. */
const TEACHER = 'teacher';
const DRAWN = 'drawn';

/** New and drawn examples, these in the share that earlier tasks have of all so far: so the generator is trained on all alike. */
function compose(given: ComposeGiven, { samples }: Config): void {
  const { scenario, builder, global } = given;
  const { shape } = scenario;
  if (global < shape.tasks)
    throw new RangeError(
      `batch.global is ${global}, but generative replay needs an example of each of ${shape.tasks} tasks in a step`,
    );
  const first = builder.reserve(samples);
  for (const task of scenario.tasks) {
    const outputs = shape.taskKnown ? {} : { outputs: outputsSoFar(shape, task.index) };
    const fresh = Math.max(1, Math.round(global / (task.index + 1)));
    let drawn = 0;
    const draw = (): Entry => {
      const at = drawn++ % samples;
      // It was drawn as the model saw inputs, so it is seen through no view. Its label does not count.
      const [output] = task.outputs as readonly [number];
      return {
        ...{ example: first + at, task: task.index, view: -1, weight: 0, output, ...outputs },
        marks: { [TEACHER]: at + 1, [DRAWN]: 1 },
      };
    };
    composeTask(given, task, task.examples.train, {
      fresh,
      step: (seen) => [
        ...seen.map((each) => ({ ...each, weight: 1, ...outputs })),
        ...Array.from({ length: global - fresh }, draw),
      ],
    });
    builder.endTask();
  }
}

/** Draws the examples that stand for the tasks before, and asks the model what they are. */
async function beforeTask(start: TaskEnd, { latent, temperature }: Config): Promise<void> {
  const { task, scenario, dataset, model, predict, make, fill } = start;
  if (task === 0) return;
  const { shape } = scenario;
  const positions = firstPositions(start, TEACHER).slice(1);
  const size = inputSize(dataset);
  const first = dataset.split('train').examples;
  const rng = createRng(shape.seed).fork('continual draws', task);
  const noise = new Float32Array(positions.length * size);
  for (let row = 0; row < positions.length; row++) rng.fillNormal(noise.subarray(row * size, row * size + latent));
  make(first, noise);
  const name = `${model.layers[0]?.name}.generator.${GENERATED}`;
  make(first, (await predict(positions, [name]))[name] as Float32Array);
  const said = (await predict(positions))[OUTPUTS] as Float32Array;
  const groups = shape.taskKnown ? shape.outputsOf.slice(0, task) : [outputsSoFar(shape, task - 1)];
  fill(TEACHER, 1, softened(said, { width: shape.outputs, groups, temperature }));
}

/**
 * Deep generative replay (Shin et al., Continual learning with deep generative replay, 2017, section 3.1): a generator learns the inputs
 * together with the classifier, and what both of them remember is mixed into each later task. Answers are compared as in van de Ven and
 * Tolias, Three scenarios for continual learning, 2019, appendix A.2 (DGR+distill).
 */
registerContinual({
  name: 'generative-replay',
  config: schema,
  targets: (_, { outputs }) => [
    { name: TEACHER, dtype: 'float32', shape: [outputs] },
    { name: DRAWN, dtype: 'float32', shape: [] },
  ],
  model: (model, { hidden, latent, deviation }, _, dataset) => {
    const inputs = inputSize(dataset);
    if (latent > inputs)
      throw new RangeError(
        `strategy.latent is ${latent}, but an input has only ${inputs} numbers: set it to ${inputs} at most`,
      );
    return withGenerator(model, { inputs, hidden, latent, deviation });
  },
  loss: ({ temperature }, { taskKnown, outputsOf, outputs }) => ({
    of: (given) => {
      const before = given.targets[TEACHER] as Tensor;
      // New classes have no part in what was drawn before them. Where the task is known each earlier one has a softmax of its own.
      const distances = taskKnown
        ? distillationLoss(given.logits, before, { masks: outputsOf.map((own) => maskOf(own, outputs)), temperature })
        : distillationLoss(given.logits, tf.maximum(before, 0), { masks: [given.mask], temperature });
      const told = tf.mul(given.targets[DRAWN] as Tensor, distances);
      return tf.mean(tf.add(tf.mul(given.weights, crossEntropies(given)), told));
    },
  }),
  compose,
  beforeTask,
});
