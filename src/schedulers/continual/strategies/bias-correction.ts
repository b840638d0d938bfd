import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { createRng, float32, type HostTensor, permutation } from '../../../tensor/index.ts';
import { largest } from '../accuracy.ts';
import { fitScaleAndShift } from '../calibration.ts';
import { composeTask, filled, type Seen } from '../compose.ts';
import { distillationLoss, firstPositions, maskOf, outputsSoFar, softened, teacherRows } from '../distillation.ts';
import { crossEntropies, OUTPUTS } from '../loss.ts';
import { requireNewClasses } from '../scenario.ts';
import { type ComposeGiven, registerContinual, type TaskEnd } from '../strategy.ts';
import { bufferShape } from './replay.ts';

type Tensor = tf.Tensor;

const schema = z.object({
  buffer: bufferShape.buffer.unwrap().default(2000),
  validation: z
    .number()
    .gt(0)
    .lt(1)
    .default(0.1)
    .describe("share of each class's kept examples that is held back, to find out how much new classes are preferred"),
  temperature: z.number().positive().default(2).describe('what logits are divided by before answers are compared'),
});
type Config = z.output<typeof schema>;

/** What the model of before says of an example, and how much that counts. */
const TEACHER = 'teacher';
const PULL = 'pull';
/** How outputs are corrected, `[2, outputs]`: scales and shifts; the same for all examples. */
const CORRECTION = 'correction';

/** An example with the output that is right. */
interface Labelled extends Seen {
  readonly output: number;
}

/** What a task is trained on besides its own examples, and what is looked at when it ends. */
interface TaskExamples {
  readonly train: readonly Labelled[];
  /** As many of each class so far. */
  readonly validation: readonly Labelled[];
}

/**
 * Examples of each task. Of each class those are kept that come first in an order of its own, and of those the first again are held
 * back. A pure function of the config, so that it need not be kept.
 */
function examplesOf({ scenario, dataset }: Pick<ComposeGiven, 'scenario' | 'dataset'>, config: Config): TaskExamples[] {
  requireNewClasses('bic', scenario.shape);
  const { outputs, seed } = scenario.shape;
  if (config.buffer < 2 * outputs)
    throw new RangeError(
      `strategy.buffer is ${config.buffer}, but bic keeps two examples of each of ${outputs} classes at least: give it ${2 * outputs}`,
    );
  const labels = dataset.split('train').labels as ArrayLike<number>;
  const classes = scenario.tasks.flatMap((task) =>
    task.outputs.map((output) => {
      const own = task.examples.train.filter((example) => task.outputOf(labels[example] as number) === output);
      const order = permutation(own.length, createRng(seed).fork('continual kept', output));
      return {
        task: task.index,
        all: Array.from(order, (i) => ({ example: own[i] as number, task: task.index, output })),
      };
    }),
  );
  return scenario.tasks.map(({ index }) => {
    const share = Math.floor(config.buffer / outputsSoFar(scenario.shape, Math.max(0, index - 1)).length);
    const held = Math.max(1, Math.round(share * config.validation));
    const seen = classes.filter(({ task }) => task <= index);
    return {
      train: seen.flatMap(({ task, all }) => all.slice(held, task === index ? undefined : share)),
      validation: index === 0 ? [] : seen.flatMap(({ all }) => all.slice(0, held)),
    };
  });
}

function compose(given: ComposeGiven, config: Config): void {
  const { scenario, builder, global } = given;
  const { outputsOf } = scenario.shape;
  const rowOf = teacherRows();
  for (const [index, { train, validation }] of examplesOf(given, config).entries()) {
    const outputs = outputsSoFar(scenario.shape, index);
    // The more classes are old, the more what was said of them counts: the paper's lambda. (Its distance has no factor T^2.)
    const old = 1 - (outputsOf[index]?.length ?? 0) / outputs.length;
    composeTask(given, scenario.tasks[index] as (typeof scenario.tasks)[number], Int32Array.from(train.keys()), {
      fresh: global,
      step: (places) =>
        places.map(({ example: place }) => {
          const each = train[place] as Labelled;
          return {
            ...each,
            weight: 1 - old,
            outputs,
            marks: { [TEACHER]: rowOf(index, each), [PULL]: old / config.temperature ** 2 },
          };
        }),
    });
    // Steps that change nothing, so that what is held back has a place in the stream: the last rows.
    const observed = (each: Labelled) => ({ ...each, weight: 1, outputs, marks: { [TEACHER]: rowOf(index, each) } });
    for (let at = 0; at < validation.length; at += global)
      builder.step(filled(validation.slice(at, at + global).map(observed), global), 'observe');
    builder.endTask();
  }
}

/** The correction of outputs that are right as they are. */
function unchanged(outputs: number): Float32Array {
  return Float32Array.from({ length: 2 * outputs }, (_, i) => (i < outputs ? 1 : 0));
}

/** Logits with each output's correction. */
function corrected(logits: Float32Array, correction: HostTensor | null): Float32Array {
  if (!correction) return logits;
  const width = correction.shape[1] as number;
  const { data } = correction;
  return logits.map((logit, i) => logit * (data[i % width] as number) + (data[width + (i % width)] as number));
}

/** Fits the correction of the task's outputs to what is held back; those of earlier tasks stay. */
async function afterTask(end: TaskEnd, config: Config): Promise<void> {
  const { task, scenario, predict, kept, keep } = end;
  const { outputs, outputsOf } = scenario.shape;
  const before = kept(CORRECTION)?.data as Float32Array | undefined;
  const correction = before?.slice() ?? unchanged(outputs);
  if (task > 0) {
    const { validation } = examplesOf(end, config)[task] as TaskExamples;
    const rows = await predict(firstPositions(end, TEACHER).slice(-validation.length));
    const { scale, shift } = fitScaleAndShift(corrected(rows[OUTPUTS] as Float32Array, kept(CORRECTION)), {
      width: outputs,
      labels: validation.map(({ output }) => output),
      over: outputsSoFar(scenario.shape, task),
      changed: outputsOf[task] as readonly number[],
    });
    for (const output of outputsOf[task] as readonly number[]) {
      correction[output] = scale;
      correction[outputs + output] = shift;
    }
  }
  keep(CORRECTION, float32(correction, [2, outputs]));
}

/**
 * Bias correction (Wu et al., Large scale incremental learning, 2019): replay and distillation (equation 3), and at the end of each task
 * a scale and a shift of its outputs, fitted to examples of all classes so far that were held back (equation 5).
 */
registerContinual({
  name: 'bic',
  config: schema,
  targets: (_, { outputs }) => [
    { name: TEACHER, dtype: 'float32', shape: [outputs] },
    { name: PULL, dtype: 'float32', shape: [] },
    { name: CORRECTION, dtype: 'float32', shape: [2, outputs] },
  ],
  loss: ({ temperature }, { outputs }) => ({
    of: (given) => {
      const [scale, shift] = tf.unstack(given.targets[CORRECTION] as Tensor, 1) as [Tensor, Tensor];
      const logits = tf.add(tf.mul(given.logits, scale), shift);
      const masks = [maskOf([...Array(outputs).keys()], outputs)];
      const distances = distillationLoss(logits, given.targets[TEACHER] as Tensor, { masks, temperature });
      const pulls = tf.mul(given.targets[PULL] as Tensor, distances);
      return tf.mean(tf.add(tf.mul(given.weights, crossEntropies({ ...given, logits })), pulls));
    },
  }),
  // Steps that only show examples leave everything as it is.
  rule: () => ({ name: 'bic', observe: () => ({}) }),
  compose,
  beforeTask: async (start, { temperature }) => {
    const { task, scenario, predict, fill, kept } = start;
    const { outputs } = scenario.shape;
    fill(CORRECTION, 0, (kept(CORRECTION)?.data as Float32Array | undefined) ?? unchanged(outputs));
    if (task === 0) return;
    const rows = await predict(firstPositions(start, TEACHER));
    const logits = corrected(rows[OUTPUTS] as Float32Array, kept(CORRECTION));
    fill(
      TEACHER,
      0,
      softened(logits, { width: outputs, groups: [outputsSoFar(scenario.shape, task - 1)], temperature }),
    );
  },
  afterTask,
  classify: {
    metrics: [],
    answers: (rows, allowed, kept) => {
      const correction = kept(CORRECTION) as HostTensor;
      return largest(corrected(rows[OUTPUTS] as Float32Array, correction), correction.shape[1] as number, allowed);
    },
  },
});
