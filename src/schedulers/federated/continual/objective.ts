import type { Dataset } from '../../../data/index.ts';
import { type Model, withoutGradient } from '../../../modules/index.ts';
import { registerTrainingObjective } from '../../../worker/index.ts';
import { plainLoss, streamLoss } from '../../continual/loss.ts';
import { type ContinualStrategy, continualStrategy, type LossGiven } from '../../continual/strategy.ts';
import '../../continual/strategies/index.ts';
import type { LocalObjective, LossContext } from '../../local/index.ts';
import type { ContinualJob } from './job.ts';

/** By name: what a continual strategy makes of a model that clients train. */
export const CLIENT_TASKS = 'client-tasks';

type Part = Pick<ContinualJob, 'strategy' | 'config' | 'shape'>;

/** The model of clients and server: as the strategy wants it, measured by the cross entropy over the outputs that take part. */
export function clientModel(model: Model, dataset: Dataset, { strategy, config, shape }: Part): Model {
  const found = continualStrategy(strategy);
  const changed = found.model?.(model, config, shape, dataset) ?? model;
  const names = targetNames(found, { config, shape });
  return { ...changed, loss: streamLoss(plainLoss, names, datasetTargets(dataset)) };
}

/**
 * A federated strategy's objective with the loss of a continual one: its state are tensors that the client keeps. (What it does to
 * gradients and parameters, its rule, is part of the optimizer.)
 */
export function clientObjective(federated: LocalObjective, dataset: Dataset, part: Part): LocalObjective {
  const { config, shape } = part;
  const strategy = continualStrategy(part.strategy);
  const loss = strategy.loss?.(config, shape) ?? plainLoss;
  const names = targetNames(strategy, part);
  const first = datasetTargets(dataset);
  const states = Object.entries(loss.state ?? {});
  const given = ({ forward, targets, tensor }: LossContext, contribute: LossGiven['contribute']): LossGiven => {
    const [weights, mask, ...mine] = targets.slice(first);
    return {
      logits: forward.outputs[0] as Tensor,
      ...(forward.outputs[1] ? { features: forward.outputs[1] } : {}),
      labels: targets[0] as Tensor,
      weights: weights as Tensor,
      mask: mask as Tensor,
      targets: Object.fromEntries(names.map((name, i) => [name, mine[i] as Tensor])),
      state: Object.fromEntries(states.map(([name]) => [name, tensor(stateName(name))])),
      contribute,
    };
  };
  const own: LocalObjective = {
    ...federated,
    name: `${federated.name} with ${strategy.name}`,
    tensors: [
      ...(federated.tensors ?? []),
      ...states.map(([name, { shape: each, init }]) => {
        if (typeof init !== 'number')
          throw new Error(
            `strategy ${strategy.name} draws the first values of its state ${name}, which a client's cannot be: use another strategy`,
          );
        return { name: stateName(name), shape: each, scope: 'client', initial: init, moves: true } as const;
      }),
    ],
    loss: (context) => loss.of(given(context, () => undefined)),
  };
  if (states.length === 0) return own;
  return {
    ...own,
    step: (context) => {
      const contributions = new Map<string, Tensor>();
      withoutGradient(() => loss.of(given(context, (name, value) => contributions.set(name, value))));
      const changes = federated.step?.(context) ?? {};
      const renewed = states.flatMap(([name, { update }]) => {
        const contribution = contributions.get(name);
        return contribution
          ? [[stateName(name), update(context.tensor(stateName(name)), contribution, 1)] as const]
          : [];
      });
      return { ...changes, tensors: { ...changes.tensors, ...Object.fromEntries(renewed) } };
    },
  };
}

type Tensor = LossGiven['logits'];

const stateName = (name: string) => `loss/${name}`;

function targetNames(strategy: ContinualStrategy, { config, shape }: Omit<Part, 'strategy'>): string[] {
  return (strategy.targets?.(config, shape) ?? []).map(({ name }) => name);
}

function datasetTargets({ modelInfo }: Dataset): number {
  return modelInfo?.targets.length ?? 1;
}

registerTrainingObjective(CLIENT_TASKS, (config) => ({
  model: (model, dataset) => clientModel(model, dataset, config as Part),
}));
