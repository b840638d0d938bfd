import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { init, param, type StateSpec, withoutGradient } from '../../../modules/index.ts';
import {
  freezeRest,
  frozenRest,
  type InputProjection,
  projectedLayers,
  restOf,
  withProjectedInputs,
} from '../projected-inputs.ts';
import { registerContinual } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'hebbian-projection';

const schema = z.object({
  neurons: z
    .int()
    .min(1)
    .default(48)
    .describe("lateral neurons of a layer for each task, at most an equal share of the layer's inputs"),
  rate: z
    .number()
    .gt(0)
    .max(1)
    .default(0.1)
    .describe('learning rate of lateral connections, relative to the activity of a neuron'),
});
type Config = z.output<typeof schema>;

/** What lateral neurons do (parameter `stage`): wait for their task, learn from it, hold what they have learnt of one that is over. */
const STAGE = { waits: 0, learns: 1, holds: 2 } as const;
/** Share of a step in the running variances. */
const NEW_SHARE = 0.05;
/** What keeps steps finite where a neuron is silent. */
const SILENT = 1e-6;

/** Length that a neuron's change, before the rate, is cut to. Those that have learnt are of length 1. */
const LONGEST = 3;

/** Lateral neurons of a layer for each task. */
function perTask({ neurons }: Config, inputs: number, tasks: number): number {
  return Math.max(1, Math.min(neurons, Math.floor(inputs / tasks)));
}

/** 1 where the stage is so, `[neurons, 1]`. */
function at(stage: Tensor, which: keyof typeof STAGE): Tensor {
  return tf.expandDims(tf.cast(tf.equal(stage, STAGE[which]), 'float32'), 1);
}

/**
 * Lateral connections H of a layer, a row for each lateral neuron. Activity y = H x comes back as Hᵀ y, which is taken out of the
 * presynaptic trace by the neurons of earlier tasks; those of the present one learn by y (x - sum over themselves and those before
 * of y_j h_j)ᵀ (Sanger, Optimal unsupervised learning in a single-layer linear feedforward neural network, 1989), which ends at the
 * principal directions of what the neurons before leave. Each neuron's step is relative to the variance of its activity, so that
 * weak directions are learnt as soon as strong ones.
 */
export function lateralCircuit(config: Config, inputs: number, tasks: number): InputProjection {
  const each = perTask(config, inputs, tasks);
  const count = each * tasks;
  const lateral: StateSpec = {
    shape: [count, inputs],
    init: init.normal(1 / Math.sqrt(inputs)),
    update: (rows, change, microbatches) => tf.add(rows, tf.mul(change, config.rate / microbatches)),
  };
  const variance: StateSpec = {
    shape: [count],
    init: 0,
    update: (old, now, microbatches) => tf.add(tf.mul(old, 1 - NEW_SHARE), tf.mul(now, NEW_SHARE / microbatches)),
  };
  const first = (_rng: unknown, [size]: readonly number[]): Float32Array =>
    new Float32Array(size as number).fill(STAGE.learns, 0, each);
  return {
    params: { stage: param([count], first, { decay: false }) },
    state: { lateral, variance },
    project: (rows, { stage }, ctx) =>
      withoutGradient(() => {
        const x = rows as tf.Tensor2D;
        const h = ctx.state.lateral as tf.Tensor2D;
        const [learns, holds] = [at(stage as Tensor, 'learns'), at(stage as Tensor, 'holds')];
        const y = tf.mul(tf.matMul(h, x, false, true), tf.add(learns, holds)) as tf.Tensor2D;
        const size = x.shape[0];
        const squares = tf.div(tf.sum(tf.square(y), 1), size);
        const order = tf.range(0, count, 1, 'float32');
        const upTo = tf.cast(tf.greaterEqual(tf.expandDims(order, 1), tf.expandDims(order, 0)), 'float32');
        const inhibition = tf.mul(tf.matMul(y, y, false, true), upTo) as tf.Tensor2D;
        const moved = tf.div(tf.sub(tf.matMul(y, x), tf.matMul(inhibition, h)), size);
        const scale = tf.expandDims(tf.add(tf.maximum(squares, ctx.state.variance as Tensor), SILENT), 1);
        const step = noLongerThan(tf.fill([count, 1], LONGEST), tf.div(moved, scale) as tf.Tensor2D);
        ctx.contribute('lateral', tf.mul(step, learns));
        ctx.contribute('variance', squares);
        return noLongerThan(x, tf.sub(x, tf.matMul(tf.mul(y, holds) as tf.Tensor2D, h, true, false)) as tf.Tensor2D);
      }),
  };
}

/**
 * Rows that are at most as long as others. No projection makes a row longer; but directions that were learnt for a few steps only are
 * not orthonormal yet, and taking them out could otherwise make activity grow without bound.
 */
function noLongerThan(before: tf.Tensor2D, after: tf.Tensor2D): Tensor {
  const length = (rows: tf.Tensor2D) => tf.sqrt(tf.sum(tf.square(rows), 1, true));
  return tf.mul(after, tf.minimum(1, tf.div(length(before), tf.add(length(after), SILENT))));
}

/**
 * Hebbian learning based orthogonal projection (Xiao, Meng, Zhang, He and Lin, Hebbian learning based orthogonal projection for continual
 * learning of spiking neural networks, 2024): lateral connections learn the principal subspace of a task's presynaptic activity while
 * it is trained on, and later tasks' weight updates see only what is orthogonal to it. For linear and for spiking layers, whose
 * presynaptic activity is the trace of spikes. For plain SGD, as `gpm`.
 */
registerContinual({
  name: NAME,
  config: schema,
  model: (model, config, shape) =>
    withProjectedInputs(model, shape, (inputs) => lateralCircuit(config, inputs, shape.tasks)),
  rule: () => frozenRest(NAME),
  transitions: () => ({ freeze: freezeRest(NAME) }),
  afterTask: async ({ task, scenario, model, setParameters, transition }, config) => {
    const tasks = scenario.tasks.length;
    if (task === tasks - 1) return;
    const stages = projectedLayers(model).map(({ path, inputs }): [string, Float32Array] => {
      const each = perTask(config, inputs, tasks);
      const stage = Float32Array.from({ length: each * tasks }, (_, neuron) => {
        const own = Math.floor(neuron / each);
        return own <= task ? STAGE.holds : own === task + 1 ? STAGE.learns : STAGE.waits;
      });
      return [`${path}.stage`, stage];
    });
    await setParameters(Object.fromEntries(stages));
    await transition('freeze', restOf({ model, scenario }));
  },
});
