import * as z from 'zod';
import type { Scheduler } from '../coordinator/index.ts';
import { optimSchema } from '../optim/index.ts';
import { trainSteps } from './steps.ts';

const outerSchema = z
  .discriminatedUnion('name', [
    z.strictObject({
      name: z.literal('nesterov').describe('SGD with Nesterov momentum over the mean changes, as in DiLoCo'),
      lr: z.number().positive().default(0.7).describe('outer learning rate; 1 goes all the way to the mean'),
      momentum: z.number().min(0).lt(1).default(0.9).describe('decay rate of the outer velocity, per round'),
    }),
    z.strictObject({ name: z.literal('average').describe('the mean of the replicas, without momentum') }),
  ])
  .prefault({ name: 'nesterov' })
  .describe('what is done with the mean of the changes at the end of a round');

const localSgdSchema = z.strictObject({
  inner_steps: z
    .int()
    .min(1)
    .default(50)
    .describe('optimizer steps that each replica takes by itself between two exchanges; must divide train.steps'),
  outer: outerSchema,
});

type LocalSgd = z.output<typeof localSgdSchema>;

/** The outer optimizer as an `optim` section: the mean change of a round is its gradient. */
function outerOptim({ outer }: LocalSgd) {
  return optimSchema.parse(
    outer.name === 'average'
      ? { name: 'sgd', lr: 1, momentum: 0 }
      : { name: 'sgd', lr: outer.lr, momentum: outer.momentum, nesterov: true },
  );
}

/**
 * `scheduler: {name: local-sgd}`, for slow links. Each data rank is a replica (so `parallel.data` is part of the
 * algorithm, not of the mesh): it trains for `inner_steps` steps on its own share of each global batch, with its own
 * optimizer state, and sends nothing. Then the changes of all replicas are averaged, through the codec of
 * `comm.compression.gradients`, and an outer optimizer applies the mean everywhere alike: DiLoCo (Douillard et al. 2023,
 * arXiv 2311.08105) with `nesterov`, local SGD (Stich 2019, arXiv 1805.09767) with `average`.
 *
 * Evaluations take place at the end of rounds, where all replicas are equal. Checkpoints may come at any step.
 */
export const localSgd: Scheduler<LocalSgd> = {
  name: 'local-sgd',
  config: localSgdSchema,
  local: (config) => ({ every: config.inner_steps, optim: outerOptim(config) }),
  check: ({ train }, { inner_steps: every }) =>
    train.steps % every === 0
      ? []
      : [
          {
            path: ['train', 'steps'],
            message:
              `train.steps must be a multiple of scheduler.inner_steps, so that training ends with an average, but ${train.steps} is no multiple of ${every}: ` +
              `set it to ${Math.ceil(train.steps / every) * every}`,
          },
        ],
  async *run(session, { inner_steps: every }) {
    const { eval_every } = session.config.train;
    if (eval_every % every !== 0)
      yield {
        type: 'warning',
        message: `evaluations take place at the end of rounds of ${every} steps: train.eval_every ${eval_every} is no multiple of that`,
      };
    yield* trainSteps(session, every);
  },
};
