import { describe, expect, it } from 'vitest';
import { createEngine, type Engine, tf } from '../../src/engine/index.ts';
import { type Model, nn } from '../../src/modules/index.ts';
import { type OptimizerPlan, type ParamRule, withRule } from '../../src/optim/index.ts';
import type { StepReport } from '../../src/worker/index.ts';
import { createRanks } from '../../src/worker/index.ts';
import { NonFinite } from '../../src/worker/non-finite.ts';
import { SPAN } from '../../src/worker/step-span.ts';
import { type JobOptions, makeJobs, mlpModel, vectorDataset } from './jobs.ts';

const engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
const STEPS = 2 * SPAN + 3;
const dense = { model: { layers: 2, dim: 8, heads: 2 }, batch: { global: 4, micro: 4 } } satisfies JobOptions;

/** A model whose middle layer has state. */
const normalised = (): Model => {
  const { layers, loss } = mlpModel();
  return { layers: layers.map((layer, i) => (i === 1 ? { name: 'norm', module: nn.batchNorm(8) } : layer)), loss };
};

/** What of a report does not depend on time. */
const told = ({ step, metrics, gradNorm, lr }: StepReport) => ({ step, metrics, gradNorm, lr });

async function train(options: JobOptions & { rule?: ParamRule }, together: boolean, on: Engine = engine) {
  const { jobs, overrides } = await makeJobs(options);
  const { rule } = options;
  const plan = overrides.optimizer as OptimizerPlan;
  const optimizer = rule ? withRule(plan, rule, [{ steps: STEPS, cycle: ['observe', 'train', 'train'] }]) : plan;
  const { ranks, dispose } = await createRanks(jobs, { ...overrides, optimizer, engine: on });
  try {
    const [rank] = ranks;
    if (!rank) throw new Error('a job has a rank');
    const reports: StepReport[] = [];
    const calls: number[] = [];
    const notes: string[] = [];
    while (reports.length < STEPS) {
      const more = together ? await rank.steps(reports.length, STEPS) : [await rank.step(reports.length)];
      calls.push(more.length);
      notes.push(...more.flatMap(({ note }) => note ?? []));
      reports.push(...more);
    }
    const evaluated = await rank.evaluate('validation', null);
    return { reports: reports.map(told), calls, notes, parameters: await rank.parameters(), evaluated };
  } finally {
    await dispose();
  }
}

describe('steps that are run as one', () => {
  it.each<[string, JobOptions & { rule?: ParamRule }]>([
    ['plain gradient descent', { ...dense, optim: { name: 'sgd', momentum: 0, clip_norm: null } }],
    ['slots and a schedule', { ...dense, optim: { name: 'adam', clip_norm: null, schedule: { name: 'cosine' } } }],
    ['dropout', { ...dense, model: { ...dense.model, dropout: 0.2 }, optim: { name: 'sgd', clip_norm: null } }],
    ['state', { ...dense, model: normalised(), dataset: vectorDataset(), optim: { name: 'sgd', clip_norm: null } }],
    [
      'numbers that each step has',
      {
        ...dense,
        optim: { name: 'sgd', momentum: 0, clip_norm: null },
        rule: {
          name: 'waves',
          numbers: { count: 1, of: (_, { step }) => [Math.sin(step)] },
          gradient: ({ gradient, numbers: [factor] }) => tf.mul(gradient, factor as tf.Tensor),
        },
      },
    ],
    [
      'steps that only look',
      {
        ...dense,
        optim: { name: 'adam', clip_norm: null },
        rule: {
          name: 'memory',
          slots: () => ['seen'],
          observe: ({ gradient, slots }) => ({ seen: tf.add(gradient, slots.seen as tf.Tensor) }),
          gradient: ({ gradient, slots }) => tf.sub(gradient, tf.mul(slots.seen as tf.Tensor, 0.1)),
        },
      },
    ],
    ['recomputation', { ...dense, optim: { name: 'sgd', clip_norm: null }, job: { remat: 'full' } }],
  ])('with %s are those of step by step, to the bit', async (_, options) => {
    const single = await train(options, false);
    const together = await train(options, true);
    expect(together.calls).toEqual([SPAN, SPAN, 1, 1, 1]);
    expect(together.reports).toEqual(single.reports);
    expect(together.parameters).toEqual(single.parameters);
    expect(together.evaluated).toEqual(single.evaluated);
  });

  it.each<[string, JobOptions]>([
    ['gradients are clipped', { ...dense, optim: { name: 'sgd', clip_norm: 1 } }],
    ['a step has several microbatches', { ...dense, batch: { global: 4, micro: 2 } }],
    ['experts are called', { ...dense, model: { ...dense.model, moe: { experts: 4, top_k: 2, every: 1, hidden: 8 } } }],
  ])('are single ones where %s', async (_, options) => {
    const together = await train({ optim: { name: 'sgd', clip_norm: null }, ...options }, true);
    expect(together.calls).toEqual(new Array(STEPS).fill(1));
  });

  it('are single ones where the engine cannot join them, and it is said once why', async () => {
    const options = { ...dense, optim: { name: 'sgd', clip_norm: null } };
    const refusing = new Proxy(engine, {
      get(target, key) {
        if (key === 'sequence')
          return () => {
            throw new Error('no room for a sequence');
          };
        const value: unknown = Reflect.get(target, key);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const together = await train(options, true, refusing);
    expect(together.calls).toEqual(new Array(STEPS).fill(1));
    expect(together.notes).toEqual([expect.stringMatching(/steps 0 to 7 .* \(no room for a sequence\)/)]);
    const single = await train(options, false);
    expect(together.reports).toEqual(single.reports);
    expect(together.parameters).toEqual(single.parameters);
  });

  it('end where a step by itself would, with the same error', async () => {
    const options = { ...dense, optim: { name: 'sgd', lr: 1e12, momentum: 0, clip_norm: null } };
    const failure = async (together: boolean) => {
      const error = await train(options, together).catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(NonFinite);
      return (error as NonFinite).message;
    };
    expect(await failure(true)).toBe(await failure(false));
  });
});
