import * as z from 'zod';
import type { StreamTarget } from '../../../data/index.ts';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import { createRng } from '../../../tensor/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { composeTask, type Seen } from '../compose.ts';
import { distillationLoss, firstPositions, outputsSoFar, softened, teacherRows } from '../distillation.ts';
import { emptyOptimizer } from '../known-task.ts';
import { crossEntropies, FEATURES, OUTPUTS } from '../loss.ts';
import { requireNewClasses, type ScenarioShape } from '../scenario.ts';
import { registerContinual, type StrategyLoss, type TaskEnd } from '../strategy.ts';
import { grow, isGrown, twoBranches } from '../two-branches.ts';
import { balancedBuffer, bufferShape, shares } from './replay.ts';

type Tensor = tf.Tensor;

const NAME = 'foster';
/** Targets: what an example is for, the task's classes (alignment, then 1 for old ones), what both branches say together. */
const [STAGE, CLASSES, TEACHER] = ['stage', 'classes', 'teacher'] as const;
const Stage = { plain: 0, boosting: 1, compression: 2 } as const;

const schema = z.object({
  buffer: bufferShape.buffer,
  replay: bufferShape.replay,
  compression_epochs: z
    .int()
    .min(1)
    .default(1)
    .describe("passes over the task's examples to compress both branches into one"),
  temperature: z.number().positive().default(2).describe('what logits are divided by before answers are compared'),
  distillation: z
    .number()
    .min(0)
    .default(1)
    .describe('weight of the distance to the answers of the old model while boosting'),
  beta: z
    .number()
    .min(0)
    .lt(1)
    .default(0.97)
    .describe(
      'how much the effective number of examples of a class grows with each: the balance between old and new ones',
    ),
});
type Foster = z.output<typeof schema>;

const frozen: ParamRule = {
  name: NAME,
  slots: () => ['frozen'],
  settle: ({ param, updated, slots }) => tf.where(tf.greater(slots.frozen as Tensor, 0.5), param, updated),
};

/** Freezes the old branch, or lets it learn. */
const freeze: Transition = (param, args) => {
  emptyOptimizer(param, NAME);
  (param.slots[`${NAME}.frozen`] as Float32Array).fill(args === true && !isGrown(param.info.path) ? 1 : 0);
};

/** Boosting (equations 6 to 9: aligned logits, feature enhancement, distillation), then balanced distillation (equation 12). */
function twoStages({ temperature, distillation }: Foster): StrategyLoss {
  return {
    of(given) {
      const { logits, targets, mask } = given;
      const [counted, old] = tf.split(targets[CLASSES] as Tensor, 2, 1) as [Tensor, Tensor];
      const [boost, auxiliary] = tf.split(given.features as Tensor, 2, 1) as [Tensor, Tensor];
      const alignment = tf.where(tf.greater(counted, 0), counted, tf.onesLike(counted));
      const sum = tf.add(tf.mul(logits, old), boost);
      const isOld = tf.greater(old, 0.5);
      const before = tf.softmax(tf.add(tf.div(logits, temperature), tf.mul(tf.sub(1, old), -1e9)));
      const teacher = tf.where(isOld, before, tf.mul(tf.onesLike(before), -1));
      const settings = { masks: [mask], temperature };
      const boosting = tf.addN([
        crossEntropies({ ...given, logits: tf.div(sum, alignment) }),
        crossEntropies({ ...given, logits: auxiliary }),
        tf.mul(distillationLoss(sum, teacher, settings), distillation),
      ]);
      const compression = distillationLoss(logits, targets[TEACHER] as Tensor, settings);
      const at = (stage: number, losses: Tensor): Tensor =>
        tf.mul(tf.cast(tf.equal(targets[STAGE] as Tensor, stage), 'float32'), losses);
      const losses = tf.addN([
        at(Stage.plain, crossEntropies(given)),
        at(Stage.boosting, boosting),
        at(Stage.compression, compression),
      ]);
      return tf.mean(tf.mul(given.weights, losses));
    },
  };
}

/** Inverse effective numbers of examples (1 - beta) / (1 - beta^n) of the outputs so far, with a mean of 1; 0 for others. */
function alignments({ task, scenario }: TaskEnd, { beta, buffer }: Foster): Float32Array {
  const weights = new Float32Array(scenario.shape.outputs);
  const old = task > 0 ? outputsSoFar(scenario.shape, task - 1).length : 0;
  let [sum, count] = [0, 0];
  for (const { index, outputs, examples } of scenario.tasks.slice(0, task + 1)) {
    const all = examples.train.length / outputs.length;
    const seen = index === task ? all : Math.min(all, buffer / old);
    for (const output of outputs) {
      weights[output] = (1 - beta) / (1 - beta ** seen);
      sum += weights[output] as number;
      count += 1;
    }
  }
  return weights.map((weight) => (weight * count) / sum);
}

const ownTargets = ({ outputs }: ScenarioShape): readonly StreamTarget[] => [
  { name: STAGE, dtype: 'float32', shape: [] },
  { name: CLASSES, dtype: 'float32', shape: [2 * outputs] },
  { name: TEACHER, dtype: 'float32', shape: [outputs] },
];

/**
 * Feature boosting and compression (Wang et al., FOSTER: Feature boosting and compression for class-incremental learning, 2022): in each
 * task a new branch learns what the frozen model leaves over, then both are compressed into the model's one branch, which is what
 * classifies. Kept examples are a part of each batch here, where the paper mixes them in once an epoch.
 */
registerContinual({
  name: NAME,
  config: schema,
  targets: (_, shape) => ownTargets(shape),
  model: (model) => twoBranches(model, NAME),
  loss: (config) => twoStages(config),
  rule: () => frozen,
  transitions: () => ({ freeze }),
  compose: (given, config) => {
    const { scenario, builder, global, seed } = given;
    requireNewClasses(NAME, scenario.shape);
    const buffer = balancedBuffer(given, config.buffer, createRng(seed).fork('continual buffer'));
    builder.remember(buffer);
    const split = shares(given, { ...config, sampling: 'class-balanced' });
    const rowOf = teacherRows();
    for (const task of scenario.tasks) {
      const outputs = outputsSoFar(scenario.shape, task.index);
      const first = task.index === 0;
      const stage = (kind: number, epochs: number): void =>
        composeTask({ ...given, epochs }, task, task.examples.train, {
          fresh: first ? global : split.fresh,
          step: (fresh, { rng }) =>
            [...fresh, ...(first ? [] : buffer.draw(split.replay, rng))].map(({ example, task: of }: Seen) => {
              const seen = { example, task: of };
              const row = first ? -1 : rowOf(task.index, seen);
              return { ...seen, weight: 1, outputs, marks: { [STAGE]: kind, [CLASSES]: task.index, [TEACHER]: row } };
            }),
        });
      stage(first ? Stage.plain : Stage.boosting, given.epochs);
      if (!first) {
        builder.pause('compress');
        stage(Stage.compression, config.compression_epochs);
      }
      for (const example of task.examples.train) buffer.offer({ example, task: task.index });
      builder.endTask();
    }
  },
  beforeTask: async (start, config) => {
    const { task, scenario, fill, transition } = start;
    const old = new Float32Array(scenario.shape.outputs);
    for (const output of task > 0 ? outputsSoFar(scenario.shape, task - 1) : []) old[output] = 1;
    fill(CLASSES, task, Float32Array.of(...alignments(start, config), ...old));
    if (task === 0) return;
    await grow(start);
    await transition('freeze', true);
  },
  atPause: async (at, _pause, config) => {
    const { temperature } = config;
    const { outputs: width } = at.scenario.shape;
    const rows = await at.predict(firstPositions(at, TEACHER), [OUTPUTS, FEATURES]);
    const [main, added] = [rows[OUTPUTS], rows[FEATURES]] as [Float32Array, Float32Array];
    const old = new Set(outputsSoFar(at.scenario.shape, at.task - 1));
    const boosted = main.map((logit, i) => {
      const [row, output] = [Math.floor(i / width), i % width];
      return (old.has(output) ? logit : 0) + (added[2 * row * width + output] as number);
    });
    const groups = [outputsSoFar(at.scenario.shape, at.task)];
    const answers = softened(boosted, { width, groups, temperature });
    const balance = alignments(at, config);
    for (let row = 0; row < answers.length; row += width) {
      const weighted = (groups[0] as number[]).map(
        (output) => (answers[row + output] as number) * (balance[output] as number),
      );
      const total = weighted.reduce((sum, value) => sum + value, 0);
      for (const [i, output] of (groups[0] as number[]).entries())
        answers[row + output] = (weighted[i] as number) / total;
    }
    at.fill(TEACHER, 0, answers);
    await at.transition('freeze', false);
  },
});
