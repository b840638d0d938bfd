import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { composeTasks } from '../compose.ts';
import { crossEntropies } from '../loss.ts';
import { type Observation, observedIn, observedTargets, observeTask } from '../observe-task.ts';
import { type ContinualStrategy, registerContinual, type StrategyLoss } from '../strategy.ts';

type Tensor = tf.Tensor;

const importanceShape = {
  lambda: z.number().min(0).default(100).describe('weight of the penalty on leaving what earlier tasks need'),
  step: z
    .enum(['gradient', 'implicit'])
    .default('gradient')
    .describe(
      'how the penalty acts: as a part of the gradient, or after the step by its exact solution, which is stable for any weight',
    ),
  samples: z.int().min(1).default(200).describe('examples of a task that importance is measured on'),
} as const;

const fisherShape = {
  ...importanceShape,
  estimate: z
    .enum(['single', 'signs'])
    .default('single')
    .describe(
      'how squared gradients of examples are found: of one a step, or of a whole batch a step whose examples have random signs, which is as right on average and lets `samples` be all of a task',
    ),
} as const;

const onlineShape = {
  ...fisherShape,
  gamma: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe('what is left of the importance of earlier tasks when another is added'),
} as const;

/**
 * Quadratic penalties lambda / 2 sum_k F_k (w - w_k)^2 over earlier tasks k, of which only the sums of F_k and of F_k w_k are
 * kept: their gradient is lambda (w sum F_k - sum F_k w_k). Explicit steps diverge where lr lambda sum F_k > 2; `implicit` takes
 * w = (w' + lr lambda sum F_k w_k) / (1 + lr lambda sum F_k) after the optimizer's step to w' instead, the proximal step of the
 * penalty. Observing steps add squared gradients up.
 */
export function quadraticPenalty(
  name: string,
  { lambda, step }: { readonly lambda: number; readonly step: 'gradient' | 'implicit' },
  importance: (gradient: Tensor) => Tensor,
): ParamRule {
  const explicit: Pick<ParamRule, 'gradient'> = {
    gradient: ({ gradient, param, slots }) => {
      const pulled = tf.sub(tf.mul(param, slots.importance as Tensor), slots.pull as Tensor);
      return tf.add(gradient, tf.mul(pulled, lambda));
    },
  };
  const implicit: Pick<ParamRule, 'settle'> = {
    settle: ({ updated, slots, lr }) => {
      const rate = tf.mul(lr, lambda);
      const pulled = tf.add(updated, tf.mul(rate, slots.pull as Tensor));
      return tf.div(pulled, tf.add(tf.mul(rate, slots.importance as Tensor), 1));
    },
  };
  return {
    name,
    slots: () => ['importance', 'pull', 'measured'],
    ...(step === 'implicit' ? implicit : explicit),
    observe: ({ gradient, slots }) => ({ measured: tf.add(slots.measured as Tensor, importance(gradient)) }),
  };
}

interface Consolidation {
  /** What is left of the importance of before. */
  readonly gamma: number;
  readonly samples: number;
  /** One penalty around the newest parameters, in place of one for each task. */
  readonly running: boolean;
}

/** Adds what has been measured, as the importance of the parameters where they are now. */
export function consolidate(name: string): Transition {
  return ({ value, slots }, args) => {
    const { gamma, samples, running } = args as Consolidation;
    const [importance, pull, measured] = ['importance', 'pull', 'measured'].map(
      (slot) => slots[`${name}.${slot}`] as Float32Array,
    ) as [Float32Array, Float32Array, Float32Array];
    for (let i = 0; i < value.length; i++) {
      const own = (measured[i] as number) / samples;
      importance[i] = gamma * (importance[i] as number) + own;
      // One running penalty has its middle where the parameters are now; else each task keeps its own.
      pull[i] =
        (running ? (importance[i] as number) : own) * (value[i] as number) + (running ? 0 : (pull[i] as number));
      measured[i] = 0;
    }
  };
}

/**
 * Cross entropy whose labels are the model's own answers where a single example is looked at: the Fisher information's
 * expectation is over what the model says, here over its most likely answer.
 */
const fisherLoss: StrategyLoss = {
  of: (given) => {
    const own = tf.argMax(tf.add(given.logits, given.mask), 1);
    const looked = tf.greater(observedIn(given.targets), 0.5);
    const labels = tf.where(looked, tf.cast(own, 'int32'), tf.cast(given.labels, 'int32'));
    return tf.mean(tf.mul(given.weights, crossEntropies({ ...given, labels })));
  },
};

/** Half the squared length of the outputs, where a single example is looked at (Aljundi et al., 2018, section 4.1). */
const outputLengthLoss: StrategyLoss = {
  of: (given) => {
    const looked = observedIn(given.targets);
    const length = tf.div(tf.sum(tf.square(given.logits), 1), 2);
    const losses = tf.add(tf.mul(looked, length), tf.mul(tf.sub(1, looked), crossEntropies(given)));
    return tf.mean(tf.mul(given.weights, losses));
  },
};

function importanceStrategy<S extends z.ZodObject<typeof importanceShape>>(
  strategy: Pick<ContinualStrategy<S>, 'name' | 'config'>,
  measured: {
    readonly loss: StrategyLoss;
    of(gradient: Tensor): Tensor;
    /** Where there is one running penalty: what is left of the importance of before. */
    gamma?(config: z.output<S>): number;
  },
): void {
  const { name } = strategy;
  type Own = z.output<z.ZodObject<typeof importanceShape>>;
  registerContinual({
    ...strategy,
    languageModels: true,
    targets: () => observedTargets,
    loss: () => measured.loss,
    rule: (config) => quadraticPenalty(name, config as Own, measured.of),
    transitions: () => ({ consolidate: consolidate(name) }),
    compose: (given, config) =>
      composeTasks(given, {
        fresh: given.global,
        ended: (task) => {
          if (task.index === given.scenario.tasks.length - 1) return;
          const { samples, estimate = 'single' } = config as Own & Partial<Observation>;
          observeTask(given, task, { samples, estimate });
        },
      }),
    afterTask: async ({ task, scenario, transition }, config) => {
      if (task === scenario.tasks.length - 1) return;
      const args: Consolidation = {
        gamma: measured.gamma?.(config) ?? 1,
        samples: (config as Own).samples,
        running: measured.gamma !== undefined,
      };
      await transition('consolidate', args);
    },
  });
}

/** Elastic weight consolidation (Kirkpatrick et al., 2017, equation 3), with a penalty for each earlier task. */
importanceStrategy({ name: 'ewc', config: z.object(fisherShape) }, { loss: fisherLoss, of: tf.square });

/** The same with one running importance (Schwarz et al., Progress and compress, 2018, section 3.2). */
importanceStrategy(
  { name: 'online-ewc', config: z.object(onlineShape) },
  { loss: fisherLoss, of: tf.square, gamma: ({ gamma }) => gamma },
);

/** Memory aware synapses (Aljundi et al., 2018, equation 4): importance is how much the outputs' length depends on a weight. */
importanceStrategy(
  {
    name: 'mas',
    config: z.object({
      ...importanceShape,
      lambda: importanceShape.lambda.unwrap().default(1),
      step: importanceShape.step.unwrap().default('implicit'),
    }),
  },
  { loss: outputLengthLoss, of: tf.abs },
);
