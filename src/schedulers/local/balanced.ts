import * as z from 'zod';
import { tf } from '../../engine/index.ts';
import { pathMatcher } from '../../optim/index.ts';
import type { LocalObjective, LocalPass, LossContext, ObjectiveTensor } from './objective.ts';
import { registerObjective } from './registry.ts';

/** What is added to the logits of classes that the client has no example of: their share of a softmax is 0 then. */
const ABSENT = -1e4;

/** Examples of each class. */
export function classCounts(labels: ArrayLike<number>, examples: Int32Array, classes: number): Float32Array {
  const counts = new Float32Array(classes);
  for (const example of examples) {
    const label = labels[example] as number;
    counts[label] = (counts[label] as number) + 1;
  }
  return counts;
}

const COUNTS: ObjectiveTensor = {
  name: 'counts',
  shape: ({ classes }) => {
    if (classes === undefined)
      throw new Error('a balanced loss goes by the classes of examples, and this task has none');
    return [classes];
  },
  scope: 'fit',
  initial: 'class-counts',
};

/** The model's loss of logits to which gamma times the logarithm of each class's examples was added. */
function balancedLoss(gamma: number): (context: LossContext) => tf.Tensor {
  return ({ forward, targets, tensor, modelLoss }) => {
    const [logits, ...rest] = forward.outputs as [tf.Tensor, ...tf.Tensor[]];
    if (gamma === 0) return modelLoss(forward.outputs, targets);
    const counts = tensor('counts');
    const present = tf.cast(tf.greater(counts, 0), 'float32');
    const shift = tf.add(
      tf.mul(tf.log(tf.maximum(counts, 1)), tf.mul(present, gamma)),
      tf.mul(tf.sub(1, present), ABSENT),
    );
    return modelLoss([tf.add(logits, shift), ...rest], targets);
  };
}

/**
 * Softmax cross-entropy with the client's class frequencies: -log (n_y^γ exp z_y / Σ_c n_c^γ exp z_c). What a client rarely
 * sees is not unlearned, and what it never sees is left alone. Balanced softmax of Ren et al. (2020); as the balanced feature
 * loss of FedETF with γ: Li et al. (2023), equation 6.
 */
export function balancedSoftmax(gamma = 1): LocalObjective {
  return { name: 'balanced-softmax', tensors: [COUNTS], loss: balancedLoss(gamma) };
}

/** How FedETF's clients make the model theirs, after training. */
export interface EtfTuning {
  /** How often the directions of the classes and the projection are trained in turn. */
  readonly turns: number;
  /** Passes over the client's examples in each turn, of either. */
  readonly epochs: number;
}

/** Names of the tensor whose presence makes a fit one of fine-tuning. */
export const TUNE = 'tune';

/**
 * FedETF (Li, Shang, He, Lin and Wu 2023): the balanced loss on a classifier whose directions stay where they are. In a fit that
 * is given the tensor `tune` there follows local fine-tuning (section 4.3): the directions of the classes, then the projection,
 * in turns and with the model's own loss, everything else fixed.
 */
export function etf(gamma: number, { turns, epochs }: EtfTuning): LocalObjective {
  const frame = pathMatcher('*etf.frame');
  const projection = pathMatcher('*etf.projection.*');
  const plain = ({ forward, targets, modelLoss }: LossContext) => modelLoss(forward.outputs, targets);
  const tuning = (name: string, trains: (path: string) => boolean): LocalPass => ({
    name,
    epochs,
    when: { given: TUNE },
    trains: ({ path }) => trains(path),
    loss: plain,
  });
  return {
    name: 'etf',
    tensors: [COUNTS, { name: TUNE, shape: [1], scope: 'round', optional: true }],
    loss: balancedLoss(gamma),
    passes: [
      { name: '', trains: ({ path }) => !frame(path) },
      ...Array.from({ length: turns }, (_, turn) => [
        tuning(`frame ${turn}`, frame),
        tuning(`projection ${turn}`, projection),
      ]).flat(),
    ],
  };
}

registerObjective({
  name: 'balanced-softmax',
  config: z.object({ gamma: z.number().min(0) }),
  make: ({ gamma }) => balancedSoftmax(gamma),
});
registerObjective({
  name: 'etf',
  config: z.object({ gamma: z.number().min(0), turns: z.int().min(0), epochs: z.int().min(1) }),
  make: ({ gamma, ...tuning }) => etf(gamma, tuning),
});
