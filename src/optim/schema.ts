import * as z from 'zod';

const warmup = z.int().min(0).default(0).describe('steps over which the learning rate first rises linearly from 0');
const final = (value: number) =>
  z.number().min(0).max(1).default(value).describe('learning rate at the end, as a fraction of lr');
const decaySteps = z
  .int()
  .min(1)
  .nullable()
  .default(null)
  .describe('step at which the end is reached, warm-up included; null: the last step of training');

const scheduleSchema = z
  .discriminatedUnion('name', [
    z.strictObject({ name: z.literal('constant').describe('the same rate throughout'), warmup }),
    z.strictObject({
      name: z.literal('linear').describe('a straight line'),
      warmup,
      final: final(0),
      steps: decaySteps,
    }),
    z.strictObject({
      name: z.literal('cosine').describe('half a cosine wave'),
      warmup,
      final: final(0.1),
      steps: decaySteps,
    }),
    z.strictObject({
      name: z.literal('step').describe('drops by a factor now and then'),
      warmup,
      every: z.int().min(1).default(1000).describe('steps between drops, counted from the end of the warm-up'),
      gamma: z.number().positive().max(1).default(0.1).describe('factor of each drop'),
    }),
  ])
  .prefault({ name: 'constant' })
  .describe('how the learning rate changes over the steps');

const groupSchema = z.strictObject({
  match: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .describe('parameter paths, e.g. "*.bias" or "embed.*"; * stands for any characters, ? for one'),
  lr: z.number().min(0).default(1).describe('factor on the learning rate'),
  weight_decay: z
    .number()
    .min(0)
    .nullable()
    .default(null)
    .describe('weight decay in place of optim.weight_decay, even where a module asks for none; null: unchanged'),
});

const common = {
  clip_norm: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('largest global gradient norm; gradients above it are scaled down; null: no clipping'),
  schedule: scheduleSchema,
  groups: z.array(groupSchema).default([]).describe('parameters with settings of their own; the first match counts'),
};
const lr = (value: number) => z.number().min(0).default(value).describe('peak learning rate, per step');
const weightDecay = (value: number, what: string) =>
  z.number().min(0).default(value).describe(`${what}; not applied to biases, norms and the like`);
const beta = z.number().min(0).lt(1);
const betas = (first: number, second: number, what: string) =>
  z.tuple([beta, beta]).default([first, second]).describe(what);
const eps = z.number().positive().default(1e-8).describe('added to the root of the second moment');
const decoupled = 'weight decay, decoupled: weights shrink by lr * weight_decay a step';
const MOMENTS = 'decay rates of the running mean of gradients and of their squares';

/** The `optim` section of a config. */
export const optimSchema = z
  .discriminatedUnion('name', [
    z.strictObject({
      name: z.literal('sgd').describe('stochastic gradient descent'),
      lr: lr(0.1),
      momentum: z.number().min(0).lt(1).default(0.9).describe('decay rate of the velocity; 0 for plain SGD'),
      nesterov: z.boolean().default(false).describe("Nesterov's look-ahead; has no effect with momentum 0"),
      weight_decay: weightDecay(0, 'weight decay, added to the gradient'),
      ...common,
    }),
    z.strictObject({
      name: z.literal('adam').describe('Adam (Kingma and Ba 2015)'),
      lr: lr(1e-3),
      betas: betas(0.9, 0.999, MOMENTS),
      eps,
      weight_decay: weightDecay(0, 'weight decay, added to the gradient'),
      ...common,
    }),
    z.strictObject({
      name: z.literal('adamw').describe('Adam with decoupled weight decay (Loshchilov and Hutter 2019)'),
      lr: lr(1e-3),
      betas: betas(0.9, 0.999, MOMENTS),
      eps,
      weight_decay: weightDecay(0.01, decoupled),
      ...common,
    }),
    z.strictObject({
      name: z
        .literal('lion')
        .describe('Lion: the sign of an interpolated momentum (Chen et al. 2023); lr 3 to 10 times below AdamW'),
      lr: lr(1e-4),
      betas: betas(0.9, 0.99, 'interpolation for the update, and decay rate of the momentum'),
      weight_decay: weightDecay(0.1, decoupled),
      ...common,
    }),
    z.strictObject({
      name: z
        .literal('muon')
        .describe(
          'Muon: orthogonalised momentum for hidden matrices (Jordan et al. 2024), AdamW for all other parameters',
        ),
      lr: lr(1e-3),
      momentum: z.number().min(0).lt(1).default(0.95).describe('decay rate of the momentum of matrices'),
      nesterov: z.boolean().default(true).describe("Nesterov's look-ahead for matrices"),
      ns_steps: z.int().min(1).max(10).default(5).describe('Newton-Schulz iterations that orthogonalise an update'),
      adjust: z
        .enum(['match_rms_adamw', 'original'])
        .default('match_rms_adamw')
        .describe(
          'scale of updates of an [in, out] matrix: 0.2 sqrt(max(in, out)), so that lr and decay suit AdamW too (Liu et al. 2025); or sqrt(max(1, out / in)), with lr about 0.02 and adamw_lr about 0.015',
        ),
      adamw_lr: z
        .number()
        .positive()
        .default(1)
        .describe('factor on the learning rate of parameters that AdamW updates'),
      adamw: z
        .array(z.string().min(1))
        .default(['embed.*', '*.embed.*', 'head.*', '*.head.*', '*embedding*'])
        .describe('paths of matrices that AdamW updates: embeddings and output heads'),
      betas: betas(0.9, 0.95, `AdamW: ${MOMENTS}`),
      eps,
      weight_decay: weightDecay(0.01, decoupled),
      ...common,
    }),
  ])
  .prefault({ name: 'adamw' })
  .describe('how gradients become updates');

/** A resolved `optim` section: every key present. */
export type OptimConfig = z.output<typeof optimSchema>;

/** The `optim` section for one optimizer. */
export type OptimConfigOf<Name extends OptimConfig['name']> = Extract<OptimConfig, { name: Name }>;

/** The learning-rate schedule of an `optim` section. */
export type ScheduleConfig = z.output<typeof scheduleSchema>;
