import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { float32, type HostTensor } from '../../../tensor/index.ts';
import { concat } from '../arrays.ts';
import { composeTask, type Seen } from '../compose.ts';
import { firstPositions, outputsSoFar, teacherRows } from '../distillation.ts';
import { herd, meanOf, normalised } from '../herding.ts';
import { FEATURES, OUTPUTS, withFeatures } from '../loss.ts';
import { MASKED } from '../output-masks.ts';
import { requireNewClasses, type Scenario } from '../scenario.ts';
import { type ComposeGiven, registerContinual, type TaskEnd } from '../strategy.ts';

type Tensor = tf.Tensor;

/** What the model of before says of an example; only where there is one. */
const TEACHER = 'teacher';
const TAUGHT = 'taught';
/** Tensor `[outputs, width]`: the middle of each class's exemplars. */
const MEANS = 'means';

/** Where the exemplars of a class are: made examples, the most important first. */
interface ClassExemplars {
  readonly output: number;
  readonly task: number;
  /** Numbers of its training examples. */
  readonly train: Int32Array;
  /** Number of the first exemplar. */
  readonly first: number;
}

/** How many exemplars a class has after a task: an equal share of the budget, if it has as many examples. */
const countAfter = (
  task: number,
  { train }: Pick<ClassExemplars, 'train'>,
  { shape }: Scenario,
  budget: number,
): number => Math.min(train.length, Math.floor(budget / outputsSoFar(shape, task).length));

/** All classes, with room for exemplars behind the dataset's examples. @throws RangeError if the scenario has no classes of its own */
function classesOf(
  { scenario, dataset }: Pick<ComposeGiven, 'scenario' | 'dataset'>,
  budget: number,
): ClassExemplars[] {
  requireNewClasses('icarl', scenario.shape);
  const { outputs } = scenario.shape;
  if (budget < outputs)
    throw new RangeError(
      `strategy.buffer is ${budget}, but icarl keeps exemplars of ${outputs} classes: give it at least as many`,
    );
  const { labels, examples } = dataset.split('train');
  let first = examples;
  return scenario.tasks.flatMap((task) =>
    task.outputs.map((output) => {
      const train = task.examples.train.filter((example) => task.outputOf(labels?.[example] as number) === output);
      const own = { output, task: task.index, train, first };
      first += countAfter(task.index, own, scenario, budget);
      return own;
    }),
  );
}

/** New examples and all exemplars, shuffled together; all classes so far take part. */
function compose(given: ComposeGiven, budget: number): void {
  const { scenario, builder, global } = given;
  const classes = classesOf(given, budget);
  const rowOf = teacherRows();
  for (const each of classes) builder.reserve(countAfter(each.task, each, scenario, budget));
  for (const task of scenario.tasks) {
    const exemplars = new Map<number, Seen & { readonly output: number }>();
    for (const { first, output, ...old } of classes.filter((each) => each.task < task.index))
      for (let i = 0; i < countAfter(task.index - 1, old, scenario, budget); i++)
        exemplars.set(first + i, { example: first + i, task: old.task, output });
    const outputs = outputsSoFar(scenario.shape, task.index);
    composeTask(given, task, concat([task.examples.train, Int32Array.from(exemplars.keys())]), {
      fresh: global,
      step: (seen) =>
        seen.map((each) => ({
          ...(exemplars.get(each.example) ?? each),
          weight: 1,
          outputs,
          marks: { [TEACHER]: rowOf(task.index, each), [TAUGHT]: task.index > 0 ? 1 : 0 },
        })),
    });
    builder.endTask();
  }
}

/** Chooses exemplars of the task's classes, and finds the middle of those of each class with the features of now. */
async function afterTask(end: TaskEnd, budget: number): Promise<void> {
  const { task, scenario, dataset, examples, predict, make, keep } = end;
  const positions = firstPositions(end, TEACHER);
  const found = await predict(positions, [FEATURES]);
  const width = (found[FEATURES] as Float32Array).length / positions.length;
  const features = normalised(found[FEATURES] as Float32Array, width);
  const rowOf = new Map(Array.from(positions, (position, row) => [examples[position] as number, row]));
  const means = new Float32Array(scenario.shape.outputs * width);
  for (const own of classesOf(end, budget).filter((each) => each.task <= task)) {
    const count = countAfter(task, own, scenario, budget);
    let rows = Int32Array.from({ length: count }, (_, i) => rowOf.get(own.first + i) as number);
    if (own.task === task) {
      const candidates = own.train.map((example) => rowOf.get(example) as number);
      const chosen = herd(features, width, candidates, count);
      rows = chosen.map((i) => candidates[i] as number);
      const inputs = dataset.split('train').batch(chosen.map((i) => own.train[i] as number)).inputs;
      make(own.first, inputs[0]?.data as Float32Array);
    }
    means.set(normalised(meanOf(features, width, rows), width), own.output * width);
  }
  keep(MEANS, float32(means, [scenario.shape.outputs, width]));
}

/** The class whose exemplars are nearest in their middle; all vectors have length 1. */
function nearest(features: Float32Array, allowed: readonly number[], means: HostTensor): Int32Array {
  const width = means.shape[1] as number;
  const middle = means.data as Float32Array;
  const unit = normalised(features, width);
  const near = (row: number, output: number): number => {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += (unit[row * width + i] as number) * (middle[output * width + i] as number);
    return sum;
  };
  return Int32Array.from({ length: features.length / width }, (_, row) => {
    const products = allowed.map((output) => near(row, output));
    return allowed[products.indexOf(Math.max(...products))] as number;
  });
}

/**
 * iCaRL (Rebuffi et al., Incremental classifier and representation learning, 2017): features are learnt from new examples and exemplars
 * with a sigmoid for each class, which for earlier classes should say what it said before (algorithm 3); exemplars are those whose
 * mean is nearest to their class's (algorithm 4); an example is of the class whose exemplars' mean is nearest (algorithm 1).
 */
registerContinual({
  name: 'icarl',
  config: z.object({
    buffer: z.int().min(1).default(2000).describe('exemplars that are kept, in equal shares of the classes'),
    temperature: z
      .number()
      .positive()
      .default(2)
      .describe("what logits of the model of before are divided by: more than the paper's 1 lets features change more"),
  }),
  targets: (_, { outputs }) => [
    { name: TEACHER, dtype: 'float32', shape: [outputs] },
    { name: TAUGHT, dtype: 'float32', shape: [] },
  ],
  model: withFeatures,
  loss: () => ({
    of: ({ logits, labels, mask, weights, targets }) => {
      const taught = tf.expandDims(targets[TAUGHT] as Tensor, 1);
      const teacher = targets[TEACHER] as Tensor;
      const old = tf.mul(taught, tf.cast(tf.greaterEqual(teacher, 0), 'float32'));
      const hot = tf.oneHot(tf.cast(labels, 'int32') as tf.Tensor1D, logits.shape[1] as number, 1, 0, 'float32');
      const right = tf.add(tf.mul(old, teacher), tf.mul(tf.sub(1, old), hot));
      // Binary cross entropy of each output, from logits.
      const losses = tf.sub(tf.softplus(logits), tf.mul(logits, right));
      const taking = tf.cast(tf.greater(mask, MASKED / 2), 'float32');
      return tf.mean(tf.mul(weights, tf.sum(tf.mul(losses, taking), 1)));
    },
  }),
  compose: (given, { buffer }) => compose(given, buffer),
  beforeTask: async (start, { temperature }) => {
    const { task, scenario, predict, fill } = start;
    if (task === 0) return;
    const { outputs } = scenario.shape;
    const known = new Set(outputsSoFar(scenario.shape, task - 1));
    const said = (await predict(firstPositions(start, TEACHER)))[OUTPUTS] as Float32Array;
    fill(
      TEACHER,
      0,
      said.map((logit, i) => (known.has(i % outputs) ? 1 / (1 + Math.exp(-logit / temperature)) : -1)),
    );
  },
  afterTask: (end, { buffer }) => afterTask(end, buffer),
  classify: {
    metrics: [FEATURES],
    answers: (rows, allowed, kept) => nearest(rows[FEATURES] as Float32Array, allowed, kept(MEANS) as HostTensor),
  },
});
