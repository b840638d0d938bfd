import type { Dataset } from '../../data/index.ts';
import type { Model } from '../../modules/index.ts';
import { type OptimizerPlan, type PhaseRun, Phases, withRule } from '../../optim/index.ts';
import { registerTrainingObjective, type TrainingObjective, type Transition } from '../../worker/index.ts';
import { plainLoss, streamLoss } from './loss.ts';
import type { ScenarioShape } from './scenario.ts';
import { type Course, resolvedStrategy } from './strategy.ts';
import './strategies/index.ts';

/** Transitions that every strategy has. */
export const READ = 'parameters:read';
export const WRITE = 'parameters:write';

const read: Transition = ({ value }) => value.slice();
const write: Transition = ({ info, value }, args) => {
  const given = (args as Readonly<Record<string, Float32Array>>)[info.path];
  if (!given) return;
  if (given.length !== value.length)
    throw new RangeError(`${info.path} has ${value.length} numbers, but ${given.length} were given`);
  value.set(given);
};

const common: Readonly<Record<string, Transition>> = {
  [READ]: Object.assign(read, { valuesOnly: true } as const),
  [WRITE]: Object.assign(write, { valuesOnly: true } as const),
};

/** Name by which ranks know the objectives of continual strategies. */
export const CONTINUAL = 'continual';

/** What ranks are told: plain data. */
export interface ContinualObjective {
  readonly strategy: string;
  /** The strategy's own keys, with their defaults. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly shape: ScenarioShape;
  readonly phases: readonly PhaseRun[];
  readonly course: Course;
  /** Examples of each microbatch that training steps compute, where it is not all of them. */
  readonly rows: number | null;
}

/** What a strategy changes about a step. */
export function continualObjective({ shape, phases, course, rows, ...section }: ContinualObjective): TrainingObjective {
  const { strategy, config } = resolvedStrategy({ ...section.config, name: section.strategy });
  const rule = strategy.rule?.(config, shape, course);
  const transitions = strategy.transitions?.(config, shape);
  const when = new Phases(phases);
  return {
    ...(rows === null ? {} : { rows: (step: number) => (when.at(step) === 'train' ? rows : null) }),
    model: (model: Model, dataset: Dataset): Model => {
      const changed = strategy.model?.(model, config, shape, dataset) ?? model;
      const own = (strategy.targets?.(config, shape) ?? []).map((target) => target.name);
      const datasetTargets = dataset.modelInfo?.targets.length ?? 1;
      return { ...changed, loss: streamLoss(strategy.loss?.(config, shape) ?? plainLoss, own, datasetTargets) };
    },
    ...(rule || phases.some(({ cycle, restarts }) => restarts || cycle.includes('observe'))
      ? { optimizer: (plan: OptimizerPlan) => withRule(plan, rule ?? { name: strategy.name }, phases) }
      : {}),
    transitions: { ...common, ...transitions },
  };
}

registerTrainingObjective(CONTINUAL, (config) => continualObjective(config as ContinualObjective));
