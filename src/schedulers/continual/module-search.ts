import type { HostTensor } from '../../tensor/index.ts';
import { jsonOf } from './arrays.ts';
import { softened } from './distillation.ts';
import { type Gaussian, logLikelihood, posterior, randomProjection } from './gaussian.ts';
import { OUTPUTS } from './loss.ts';
import type { Composition, ModuleLibrary } from './module-library.ts';
import type { Task } from './scenario.ts';
import type { TaskEnd } from './strategy.ts';

/** A composition that was trained for a task, and its accuracy on what was held out. */
export interface Trial {
  readonly composition: Composition;
  readonly accuracy?: number;
}

/** What is known of the tasks so far: plain data, kept under `picle`. */
export interface SearchLog {
  /** Of each task that has been learnt. */
  readonly compositions: Composition[];
  /** All that were tried for each task; those of the present one so far. */
  readonly trials: Trial[][];
  /** Modules of the library that the present task's inputs are likely for, layer by layer. */
  path: Composition;
}

/** How compositions are searched for. */
export interface SearchSettings {
  /** Compositions whose first layers come from the library. */
  readonly perceptual: number;
  /** First layers that are new where the last ones come from the library. */
  readonly new_layers: number;
  /** Examples whose layer inputs are looked at. */
  readonly samples: number;
  /** Numbers that the inputs of a layer are projected to. */
  readonly dims: number;
}

/** By example: a position of the task's stream that has it. */
export function placesOf({ examples, positions, task }: TaskEnd): Map<number, number> {
  const { from, to } = positions(task);
  const places = new Map<number, number>();
  for (let position = to - 1; position >= from; position--) places.set(examples[position] as number, position);
  return places;
}

/** Positions of some of a task's examples, spread over them. */
export function spread(at: TaskEnd, samples: number): Int32Array {
  const all = [...placesOf(at).values()];
  const count = Math.min(samples, all.length);
  return Int32Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)] as number);
}

/** Inputs of a layer, as few numbers. */
export async function projectedInputs(
  at: TaskEnd,
  library: ModuleLibrary,
  layer: number,
  { samples, dims }: SearchSettings,
) {
  const { rows, width } = await library.inputs(layer, spread(at, samples));
  return randomProjection(rows, { width, dims: Math.min(dims, width), seed: at.scenario.shape.seed });
}

/** Under which the inputs that a module was trained on are kept. */
export const gaussianName = (task: number, layer: number): string => `gaussian/${task}/${layer}`;

/**
 * Perceptual transfer: layer by layer the module whose own training inputs the inputs of this task, as they come out of the modules
 * before it, are most likely to be among. Any of its beginnings is the best prefix of its length that is found greedily.
 */
async function likelyPath(
  at: TaskEnd,
  library: ModuleLibrary,
  log: SearchLog,
  settings: SearchSettings,
): Promise<Composition> {
  const path: number[] = [];
  for (const layer of library.layers.keys()) {
    const last = layer === library.layers.length - 1;
    const options = log.compositions.flatMap((each, of) =>
      each[layer] === of && (!last || library.sameOutputs(of, at.task)) ? [of] : [],
    );
    if (options.length === 0) break;
    await library.put(withPrefix(path, library, at.task), at.task);
    const rows = await projectedInputs(at, library, layer, settings);
    const scores = options.map((of) =>
      logLikelihood(jsonOf(at.kept(gaussianName(of, layer)) as HostTensor) as Gaussian, rows),
    );
    path.push(options[scores.indexOf(Math.max(...scores))] as number);
  }
  return path;
}

/** Modules of the library, then new ones. */
export const withPrefix = (prefix: Composition, { layers }: ModuleLibrary, task: number): Composition =>
  layers.map((_, layer) => prefix[layer] ?? task);

/** Standard deviation of what suffixes are worth beforehand, and variance of an accuracy that was measured. */
const [SPREAD, NOISE] = [0.1, 1e-4];

/**
 * Latent transfer: the suffix of an earlier task that is tried next. A Gaussian process over suffixes, whose kernel goes by how much their
 * answers differ for the same inputs (those of this task, through the first modules of its path), is asked for the highest upper
 * confidence bound; of equal ones the suffix that is most like the others. Null if all have been tried.
 */
async function likelySuffix(
  at: TaskEnd,
  library: ModuleLibrary,
  log: SearchLog,
  settings: SearchSettings,
): Promise<Composition | null> {
  const { task, scenario } = at;
  const first = Math.min(settings.new_layers, library.layers.length - 1);
  const usable = log.compositions.filter((each) => library.sameOutputs(each.at(-1) as number, task));
  const suffixes = [...new Map(usable.map((each) => [each.slice(first).join(), each.slice(first)])).values()];
  const tried = log.trials[task] as Trial[];
  const triedAs = (suffix: Composition) => {
    const name = [...Array.from({ length: first }, () => task), ...suffix].join();
    return tried.find(({ composition }) => composition.join() === name);
  };
  if (suffixes.every(triedAs)) return null;
  const positions = spread(at, settings.samples);
  const { outputs: width } = scenario.shape;
  const answers: Float32Array[] = [];
  for (const suffix of suffixes) {
    await library.put([...log.path.slice(0, first), ...suffix], task);
    const logits = (await at.predict(positions))[OUTPUTS] as Float32Array;
    answers.push(softened(logits, { width, groups: [[...(scenario.tasks[task] as Task).outputs]], temperature: 1 }));
  }
  const distances = answers.map((a) =>
    answers.map((b) => a.reduce((sum, value, i) => sum + (value - (b[i] as number)) ** 2, 0) / positions.length),
  );
  const apart = distances.flat().filter((distance) => distance > 0);
  const scale = apart.length > 0 ? apart.reduce((a, b) => a + b) / apart.length : 1;
  const kernel = distances.map((row) => Float64Array.from(row, (d) => SPREAD ** 2 * Math.exp(-d / (2 * scale))));
  const observed = [...suffixes.keys()].filter((i) => triedAs(suffixes[i] as Composition));
  const values = observed.map(
    (i) => Number(triedAs(suffixes[i] as Composition)?.accuracy) - Number(tried[0]?.accuracy),
  );
  const bounds = posterior(kernel, { at: observed, values }, NOISE).map(({ mean, deviation }) => mean + deviation);
  const alike = kernel.map((row) => row.reduce((a, b) => a + b));
  const [best] = [...suffixes.keys()]
    .filter((i) => !observed.includes(i))
    .sort((a, b) => (bounds[b] as number) - (bounds[a] as number) || (alike[b] as number) - (alike[a] as number));
  return [...Array.from({ length: first }, () => task), ...(suffixes[best as number] as Composition)];
}

/** What is tried next: all new, then prefixes, then suffixes; all new from other initial values once nothing else is left. */
export async function nextComposition(
  at: TaskEnd,
  library: ModuleLibrary,
  log: SearchLog,
  settings: SearchSettings,
): Promise<Composition> {
  const { task } = at;
  const count = (log.trials[task] as Trial[]).length;
  if (count === 0) log.path = await likelyPath(at, library, log, settings);
  const prefixes = Math.min(settings.perceptual, log.path.length);
  if (count <= prefixes)
    return withPrefix(log.path.slice(0, count === 0 ? 0 : log.path.length + 1 - count), library, task);
  return (await likelySuffix(at, library, log, settings)) ?? withPrefix([], library, task);
}
