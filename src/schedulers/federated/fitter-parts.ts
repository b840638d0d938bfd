import { type Dataset, openDataset, type PreparedStream, type Split } from '../../data/index.ts';
import { createEngine, type Engine } from '../../engine/index.ts';
import { buildModel, type Model, type ResolvedModel } from '../../modules/index.ts';
import { buildOptimizer, type OptimConfig, type OptimizerPlan } from '../../optim/index.ts';
import { type LocalObjective, LocalTrainer, objectiveNamed } from '../local/index.ts';
import { type ClientView, clientView } from './client-view.ts';
import { clientModel, TaskClients } from './continual/near-data.ts';
import { Evaluator } from './evaluator.ts';
import type { FitJob } from './fit-task.ts';

/** What a thread trains clients with. */
export interface FitterParts {
  readonly job: FitJob;
  readonly engine: Engine;
  readonly model: Model;
  readonly dataset: Dataset;
  readonly trainer: LocalTrainer;
  readonly evaluator: Evaluator;
  readonly objective: LocalObjective;
  readonly optimizer: OptimizerPlan;
  /** The examples of all clients, and how many classes they have; undefined where targets are none. */
  readonly split: Split;
  readonly classes: number | undefined;
  /** How each client sees its examples. */
  readonly view: ClientView;
  /** A continual strategy near the data; null where there are no tasks. */
  readonly continual: TaskClients | null;
}

/** Makes them as a job says. @throws what making the model, the data or the engine throws */
export async function fitterParts(job: FitJob): Promise<FitterParts> {
  const dataset = openDataset(job.data);
  const { continual: tasks } = job;
  const built = (await buildModel(job.model as ResolvedModel, dataset.modelInfo ?? dataset.info)).model;
  const model = tasks ? clientModel(built, dataset, tasks) : built;
  const engine = await createEngine(job.engine);
  const federated = objectiveNamed(job.objective.name, job.objective.config);
  // Schedules of the learning rate count local steps; how many there will be is not known.
  const plan = buildOptimizer(job.optim as OptimConfig, { totalSteps: Number.MAX_SAFE_INTEGER });
  const view = clientView(tasks ? (job.data as PreparedStream).base : job.data, job.shift, job.seed);
  const continual = tasks
    ? new TaskClients({
        ...{ job: tasks, data: job.data as PreparedStream, engine, model, optimizer: plan, federated, view },
        ...{ seed: job.seed, batch: job.batch },
      })
    : null;
  const objective = continual?.objective ?? federated;
  const optimizer = continual?.slots.training ?? plan;
  const parts = { engine, model, info: dataset.info };
  const trainer = new LocalTrainer({ ...parts, optimizer, objective });
  const evaluator = new Evaluator({ ...parts, dataset, layouts: trainer });
  return {
    ...{ job, engine, model, dataset, trainer, evaluator, objective, optimizer },
    ...{ split: dataset.split('train'), classes: dataset.info.classes, view, continual },
  };
}
