import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import { createRng, float32, permutation } from '../../../tensor/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { largest } from '../accuracy.ts';
import { jsonOf, jsonTensor } from '../arrays.ts';
import { composeTask } from '../compose.ts';
import { gaussianOf } from '../gaussian.ts';
import { emptyOptimizer, refuseStatistics, requireKnownTask } from '../known-task.ts';
import { OUTPUTS } from '../loss.ts';
import { ModuleLibrary, withLayerInputs } from '../module-library.ts';
import {
  gaussianName,
  nextComposition,
  placesOf,
  projectedInputs,
  type SearchLog,
  type Trial,
} from '../module-search.ts';
import type { Task } from '../scenario.ts';
import { registerContinual, type TaskEnd } from '../strategy.ts';

const NAME = 'picle';
/** Names of what is kept: what is known, and the new modules of the best composition tried for the present task. */
const LOG = 'picle';
const BEST = 'best/';

const schema = z.object({
  perceptual: z
    .int()
    .min(0)
    .default(3)
    .describe('compositions tried for each later task whose first layers come from the library, the longest first'),
  latent: z.int().min(0).default(2).describe('compositions tried for each later task whose last layers do'),
  new_layers: z.int().min(1).default(1).describe('first layers that are new where the last ones come from the library'),
  trial_epochs: z.int().min(1).default(1).describe('passes over the examples of a task for each composition tried'),
  validation: z
    .number()
    .gt(0)
    .lt(1)
    .default(0.2)
    .describe("share of a task's examples that compositions are compared on; the best one is then trained on all"),
  samples: z.int().min(2).default(200).describe('examples of a task whose layer inputs are looked at'),
  dims: z.int().min(1).default(20).describe('numbers that the inputs of a layer are projected to'),
});
type Config = z.output<typeof schema>;

const logOf = ({ kept }: TaskEnd): SearchLog => {
  const tensor = kept(LOG);
  return tensor ? (jsonOf(tensor) as SearchLog) : { compositions: [], trials: [], path: [] };
};

/** Modules of the library do not change, to the bit. */
const frozenModules: ParamRule = {
  name: NAME,
  slots: () => ['frozen'],
  settle: ({ param, updated, slots }) => tf.where(tf.greater(slots.frozen as tf.Tensor, 0.5), param, updated),
};

const freeze: Transition = (param, paths) => {
  emptyOptimizer(param, NAME);
  param.slots[`${NAME}.frozen`]?.fill((paths as readonly string[]).includes(param.info.path) ? 1 : 0);
};

/** A task's examples, those that compositions are compared on apart. @throws RangeError if there are too few */
function parted({ index, examples }: Task, share: number, seed: number) {
  const { train } = examples;
  const held = Math.max(1, Math.round(share * train.length));
  if (held >= train.length)
    throw new RangeError(
      `${NAME} holds out ${held} of the ${train.length} examples of task ${index + 1} (strategy.validation ${share}), none are left`,
    );
  const order = permutation(train.length, createRng(seed).fork('picle held out', index));
  const shuffled = order.map((at) => train[at] as number);
  return { held: shuffled.subarray(0, held), rest: shuffled.subarray(held) };
}

async function accuracyOfTrial(at: TaskEnd, { validation }: Config): Promise<number> {
  const { shape, tasks } = at.scenario;
  const task = tasks[at.task] as Task;
  const { held } = parted(task, validation, shape.seed);
  const places = placesOf(at);
  const rows = await at.predict(held.map((example) => places.get(example) as number));
  const answers = largest(rows[OUTPUTS] as Float32Array, shape.outputs, task.outputs);
  const { labels } = at.dataset.split('train');
  const right = answers.filter((answer, i) => answer === task.outputOf(labels?.[held[i] as number] as number));
  return right.length / held.length;
}

const ownOf = ({ composition }: Trial, task: number): number => composition.filter((of) => of === task).length;

/** The best trial: of equally good ones that with fewer new modules. */
function bestOf(trials: readonly Trial[], task: number): Trial {
  const worth = (trial: Trial): number => trial.accuracy ?? -1;
  return [...trials].sort((a, b) => worth(b) - worth(a) || ownOf(a, task) - ownOf(b, task))[0] as Trial;
}

/** Measures the composition that has just been trained; keeps its new modules if none before was better. */
async function measure(at: TaskEnd, log: SearchLog, library: ModuleLibrary, config: Config): Promise<void> {
  const { task, parameters, keep } = at;
  const trials = log.trials[task] as Trial[];
  const trained = trials.pop();
  if (!trained) return;
  const measured = { ...trained, accuracy: await accuracyOfTrial(at, config) };
  trials.push(measured);
  if (bestOf(trials, task) !== measured) return;
  const values = await parameters();
  for (const path of library.own(measured.composition, task)) {
    const value = values[path] as Float32Array;
    keep(`${BEST}${path}`, float32(value, [value.length]));
  }
}

/**
 * Modular continual learning (Valkov, Srivastava, Chaudhuri and Sutton, A probabilistic framework for modular continual learning, 2024):
 * each task is a composition of modules, one for each layer, from a library or new. A probabilistic model of inputs and one of suffixes
 * say which few are worth training for it, a number that does not grow with the library. Modules of the library never change. Unlike in
 * the paper modules have equal probabilities beforehand, and suffixes of one length are looked at.
 */
registerContinual({
  name: NAME,
  config: schema,
  model: (model) => withLayerInputs(refuseStatistics(NAME, model)),
  rule: () => frozenModules,
  transitions: () => ({ freeze }),
  compose: (given, { perceptual, latent, trial_epochs, validation }) => {
    const { scenario, builder, global } = given;
    requireKnownTask(NAME, scenario.shape);
    for (const task of scenario.tasks) {
      // The first task has nothing to choose from.
      const trials = task.index === 0 ? 0 : 1 + perceptual + latent;
      for (let trial = 0; trial < trials; trial++) {
        const { rest } = parted(task, validation, scenario.shape.seed);
        builder.pause('try');
        builder.restart();
        composeTask({ ...given, epochs: trial_epochs }, task, rest, { fresh: global });
      }
      if (trials > 0) builder.pause('choose');
      builder.restart();
      composeTask(given, task, task.examples.train, { fresh: global });
      builder.endTask();
    }
  },
  beforeTask: (start) => {
    const log = logOf(start);
    const { layers } = new ModuleLibrary(start);
    log.trials[start.task] = start.task === 0 ? [{ composition: layers.map(() => 0) }] : [];
    start.keep(LOG, jsonTensor(log));
  },
  atPause: async (at, pause, config) => {
    const { task, keep, kept, setParameters, transition } = at;
    const log = logOf(at);
    const library = new ModuleLibrary(at);
    const trials = log.trials[task] as Trial[];
    await measure(at, log, library, config);
    if (pause === 'try') {
      const composition = await nextComposition(at, library, log, config);
      await library.put(composition, task, trials.length);
      await transition('freeze', library.borrowed(composition, task));
      trials.push({ composition });
    } else {
      const { composition } = bestOf(trials, task);
      const best = library.own(composition, task).map((path) => [path, kept(`${BEST}${path}`)?.data as Float32Array]);
      await library.put(composition, task);
      await setParameters(Object.fromEntries(best));
      await transition('freeze', library.borrowed(composition, task));
    }
    keep(LOG, jsonTensor(log));
  },
  afterTask: async (end, config) => {
    const { task, keep } = end;
    const log = logOf(end);
    const library = new ModuleLibrary(end);
    const { composition } = bestOf(log.trials[task] as Trial[], task);
    library.keep(composition, task, await end.parameters());
    for (const [layer, of] of composition.entries())
      if (of === task)
        keep(gaussianName(task, layer), jsonTensor(gaussianOf(await projectedInputs(end, library, layer, config))));
    log.compositions.push(composition);
    keep(LOG, jsonTensor(log));
  },
  // A task that has not come yet is shown what there is: the newest composition.
  showTask: async (shown, task) => {
    const { compositions } = logOf(shown);
    const newest = compositions.length - 1;
    await new ModuleLibrary(shown).put(compositions[Math.min(task ?? newest, newest)] as number[], task ?? newest);
  },
});
