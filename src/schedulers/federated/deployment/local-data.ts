import { existsSync } from 'node:fs';
import * as z from 'zod';
import {
  type DataConfig,
  type DataEncoding,
  DataError,
  dataSchema,
  heldOut,
  naturalKeys,
  openDataset,
  type Partition,
  type PreparedData,
  prepareDataLike,
} from '../../../data/index.ts';
import { makePartition, type PartitionConfig, partitionSchema } from '../round-schema.ts';
import { ClientRefusal } from './errors.ts';
import type { JobDescription } from './messages.ts';

const sharesSchema = z.object({ how: partitionSchema, holdout: z.number().min(0).max(1) });

/** Which data a client trains on. */
export interface LocalDataSource {
  /** A file or folder, or the name of the built-in dataset that the job is about. */
  readonly data: string;
  /** Of it, the part of one client of a simulation of `of` clients: for trying things; null for all of it. */
  readonly part: { readonly index: number; readonly of: number } | null;
}

/** A client's own data, as numbers. */
export interface LocalData {
  readonly prepared: PreparedData;
  /** Its examples of the training split, in its own order. */
  readonly examples: Int32Array;
  /** Those that it does not train on and is measured on, if any are held out (`client_metrics.holdout`). */
  readonly held: Int32Array;
  /** Different classes among them; null where there are no classes. */
  readonly classes: number | null;
}

/**
 * Reads a client's data, and makes numbers of it as the job does. Nothing of it leaves this machine.
 * @throws DataError or ClientRefusal saying what is missing, or does not fit the job
 */
export async function localData({ data, part }: LocalDataSource, job: JobDescription): Promise<LocalData> {
  const section = dataSchema.parse(job.data.section);
  const prepared = await prepareDataLike(ownSection(section, data, part !== null), job.data.encoding as DataEncoding);
  const split = openDataset(prepared).split('train');
  const labels = split.labels ?? null;
  const { how, holdout } = sharesSchema.parse(job.partition);
  const whole =
    part === null
      ? {
          clients: 1,
          size: () => split.examples,
          examples: () => Int32Array.from({ length: split.examples }, (_, i) => i),
        }
      : await partOfData({ examples: split.examples, labels }, part, { job, how, section, prepared });
  const { train, held } = heldOut(whole, holdout, job.seed);
  const own = part?.index ?? 0;
  const examples = train.examples(own).slice();
  const classes = labels && new Set(Array.from(examples, (i) => labels[i] as number)).size;
  return { prepared, examples, held: held.examples(own), classes };
}

/** Whether it is the name of a dataset rather than a path. @throws DataError if it can be neither */
export function isDatasetName(data: string): boolean {
  if (existsSync(data)) return false;
  if (/^[\w-]+$/.test(data)) return true;
  throw new DataError(`--data: there is no file or folder '${data}'`);
}

/** The job's `data` section, about this client's file. */
function ownSection(section: DataConfig, data: string, part: boolean): DataConfig {
  const named = isDatasetName(data);
  if (named && data !== section.name)
    throw new ClientRefusal(
      `the job trains on data like "${section.name}", and there is no file or folder '${data}' here: give the path of your own with --data`,
    );
  if (!named && !('path' in section))
    throw new ClientRefusal(
      `the job trains on "${section.name}", which has no files of one's own: give --data ${section.name}`,
    );
  const path = 'path' in section ? { path: named ? null : data } : {};
  if (named && 'path' in section && section.name !== 'mnist' && section.name !== 'fashion-mnist')
    throw new ClientRefusal(`the job trains on data like "${section.name}": give the path of your own with --data`);
  // Who has a part of the job's data leaves out what the job leaves out; of data of one's own, everything is for training.
  const held = part ? {} : { validation: 0, ...('test' in section ? { test: 0 } : {}) };
  return { ...section, ...path, ...held } as DataConfig;
}

/** The simulation's partition, of which a client has its part. */
async function partOfData(
  source: { readonly examples: number; readonly labels: ArrayLike<number> | null },
  part: { readonly index: number; readonly of: number },
  of: {
    readonly job: JobDescription;
    readonly how: PartitionConfig;
    readonly section: DataConfig;
    readonly prepared: PreparedData;
  },
): Promise<Partition> {
  const { how } = of;
  const keys = how.name === 'natural' ? { keys: await naturalKeys(of.section, of.prepared, how.key) } : {};
  try {
    return makePartition(how, { ...source, ...keys }, { clients: part.of, seed: of.job.seed });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ClientRefusal(`--part ${part.index + 1}/${part.of}: ${error.message}`, { cause: error });
  }
}
