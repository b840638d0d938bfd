import type { Dataset, PreparedData } from '../../../data/index.ts';
import type { Scenario } from '../../continual/scenario.ts';
import { type ContinualStrategy, continualStrategies, continualStrategy } from '../../continual/strategy.ts';
import type { LocalObjective } from '../../local/index.ts';
import type { FederatedServer, FederatedStrategy } from '../strategy.ts';
import { clientStream, NoSteps } from './client-stream.ts';
import { type ContinualJob, NO_COURSE } from './job.ts';

/** What a strategy is tried on. */
interface Tried {
  readonly scenario: Scenario;
  readonly dataset: Dataset;
  readonly data: PreparedData;
  readonly batch: number;
}

/** Why clients cannot use a continual strategy, and which ones they can; null where they can. @throws what `compose` throws */
export function refusedStrategy(job: ContinualJob, tried: Tried): string | null {
  const why = unsuited(continualStrategy(job.strategy), job) ?? composition(job, tried);
  if (why === null) return null;
  const others = [...continualStrategies().values()].filter((other) => {
    const config = other.config.safeParse({});
    try {
      const like = { ...job, strategy: other.name, config: config.data ?? {} };
      return config.success && unsuited(other, like) === null && composition(like, tried) === null;
    } catch {
      return false;
    }
  });
  return `${why}. Strategies that can: ${others.map(({ name }) => name).join(', ')}`;
}

/** What needs more of a run than a client has. */
function unsuited(strategy: ContinualStrategy, { config, shape }: ContinualJob): string | null {
  const rule = strategy.rule?.(config, shape, NO_COURSE);
  if (rule?.sums || rule?.numbers)
    return 'its steps use numbers that are worked out from step to step (sums over all parameters, say), while the steps of a client are compiled as one';
  if (strategy.classify)
    return 'it classifies with more than the model, and what it needs would be with the clients, not with the common model';
  if (strategy.showTask && shape.taskKnown)
    return 'it has a model for each task, and clients would each have others than the common model that is evaluated';
  if (strategy.atPause) return 'it changes the model within a task, which only the server can do here';
  return null;
}

/** Tries whether a client's steps can be taken task by task: a client that has a few examples of each. */
function composition(job: ContinualJob, { scenario, ...tried }: Tried): string | null {
  const examples = scenario.tasks.map((task) => task.examples.train.subarray(0, 2 * tried.batch));
  const fits = scenario.tasks.map(({ index }) => (index === 0 ? 1 : 0));
  try {
    const common = { job, scenario, ...tried, examples, seed: 0, client: 0 };
    clientStream({ ...common, fits, task: 0 });
    const { built } = clientStream({ ...common, fits: fits.map(() => 1), task: fits.length - 1 });
    const anew = built.pauses.length > 0 || built.phases.some(({ restarts }) => restarts);
    return anew
      ? 'it begins its training anew, or changes the model within a task, which only the server can do'
      : null;
  } catch (error) {
    if (error instanceof NoSteps) return error.message;
    throw error;
  }
}

/** Why clients of a federated strategy cannot learn tasks one after another; null where they can. */
export function refusedFederation(
  strategy: FederatedStrategy,
  server: FederatedServer,
  objective: LocalObjective,
  settings: Readonly<Record<string, unknown>>,
): string | null {
  const { attack } = settings.behaviour as { readonly attack?: { readonly name: string } | null };
  if (objective.loss)
    return `clients of ${strategy.name} have a loss of their own, in place of which the tasks' would come`;
  if (objective.passes) return `clients of ${strategy.name} train in several passes, each over all of their examples`;
  if (objective.own || objective.personal)
    return `clients of ${strategy.name} keep models, or parts of one, of their own, and it is the common model that is evaluated after each task`;
  if (objective.readings || server.prepare || strategy.sharedExamples || strategy.finish)
    return `${strategy.name} asks clients about all of their examples, or about examples for all to see`;
  if (attack?.name === 'label-flip') return 'behaviour.attack: label-flip knows nothing of the tasks of classes';
  return null;
}
