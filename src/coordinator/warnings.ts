import { availableParallelism } from 'node:os';
import type { Dataset } from '../data/index.ts';
import { type Model, walk } from '../modules/index.ts';
import { worldSize } from '../plan/index.ts';
import { coversPath } from '../worker/index.ts';
import type { ResolvedConfig } from './config/index.ts';
import { schedulerNamed } from './scheduler.ts';

/** Tells of cores that stay idle because `numerics: exact` gives each worker one thread, and how to use them. */
export function idleCores(config: ResolvedConfig): string[] {
  // Agents on other machines: their cores are not these.
  if (config.comm.control !== 'local') return [];
  // Simulated clients have threads of their own.
  if (schedulerNamed(config.scheduler.name).alone) return [];
  const [cores, workers] = [availableParallelism(), worldSize(config.parallel)];
  if (config.engine.threads > 0 || config.numerics !== 'exact' || config.engine.device !== 'cpu' || workers * 2 > cores)
    return [];
  return [
    `${workers} of ${cores} cores compute: with numerics: exact a worker has one thread, so that any number of workers ` +
      `gives the same bits. --workers ${cores} uses all of them; so does --set engine.threads=${Math.floor(cores / workers)}, with other bits`,
  ];
}

/** Tells of a step that takes more examples than there are. */
export function repeatedExamples({ batch }: ResolvedConfig, dataset: Dataset): string[] {
  const { examples } = dataset.split('train');
  if (batch.global <= examples) return [];
  return [
    `batch.global ${batch.global} is more than the ${examples} training examples: every step repeats some of them`,
  ];
}

/** Tells of module paths in `remat` that are of no module. */
export function unusedRemat({ remat }: ResolvedConfig, model: Model): string[] {
  if (typeof remat === 'string') return [];
  const paths = model.layers.flatMap(({ module, name }) =>
    walk(module, name, { experts: true }).map((placed) => placed.path),
  );
  const layers = model.layers.map(({ name }) => name).join(', ');
  return Object.keys(remat)
    .filter((pattern) => !paths.some((path) => coversPath(pattern, path)))
    .map((pattern) => `remat: '${pattern}' has no effect: no module is called that; the layers are ${layers}`);
}

/** Tells what compression does to `numerics: exact`, and of codecs that have no edge. */
export function compressionNotes({ comm, numerics, parallel, scheduler }: ResolvedConfig): string[] {
  const { gradients, activations } = comm.compression;
  const used = [
    ...(gradients === 'none' ? [] : [{ key: 'gradients', codec: gradients, idle: parallel.data === 1, axis: 'data' }]),
    ...(activations === 'none'
      ? []
      : [{ key: 'activations', codec: activations, idle: parallel.pipeline === 1, axis: 'pipeline' }]),
  ];
  // With local steps the data axis is part of the algorithm, and nobody expects another one to give the same bits.
  const local = schedulerNamed(scheduler.name).local !== undefined;
  const active = used.filter(({ idle, axis }) => !idle && !(local && axis === 'data'));
  return [
    ...used
      .filter(({ idle }) => idle)
      .map(({ key, codec, axis }) => `comm.compression.${key} ${codec} has no effect: parallel.${axis} is 1`),
    ...(active.length > 0 && numerics === 'exact'
      ? [
          `numerics: exact with compressed ${active.map(({ key }) => key).join(' and ')} gives the same bits on the same mesh only: ` +
            'what is rounded depends on which rank computes what',
        ]
      : []),
  ];
}
