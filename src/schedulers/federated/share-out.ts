import { join } from 'node:path';
import { type Execution, type PreparedRun, writeFileAtomically } from '../../coordinator/index.ts';
import {
  angleOf,
  groupOf,
  heldOut,
  naturalKeys,
  type Partition,
  type PartitionSource,
  partitionPicture,
  type RotationShift,
  rotationViews,
} from '../../data/index.ts';
import { makePartition, type RunSettings } from './round-schema.ts';
import { setAside } from './shared-examples.ts';

/** Who has which examples. */
export interface SharedOut {
  /** What clients train on. */
  readonly partition: Partition;
  /** What clients are measured on: what they hold out, or else what they train on. */
  readonly measured: Partition;
  /** Examples for all to see. */
  readonly shared: Int32Array | null;
  /** Path of the picture of the split. */
  readonly picture: string;
}

/** Who has which examples, and what they were shared out of. */
export interface Division extends Omit<SharedOut, 'picture'> {
  /** All examples of each client, those that it holds out included. */
  readonly whole: Partition;
  readonly source: PartitionSource;
}

/**
 * Shares the training examples out as a config says.
 * @throws ConfigError if it cannot be done; DataError if the data does not have the key that it should go by
 */
export async function divide(
  { config, data, dataset }: PreparedRun,
  settings: RunSettings & { readonly clients: number },
  sharedExamples: number,
): Promise<Division> {
  const split = dataset.split('train');
  const { partition: how, feature_shift: shift, client_metrics: metrics, clients } = settings;
  const { seed } = config;
  const source: PartitionSource = {
    examples: split.examples,
    labels: split.labels ?? null,
    ...(how.name === 'natural' ? { keys: await naturalKeys(config.data, data, how.key) } : {}),
  };
  const attempt = <T>(key: string, make: () => T): T => {
    try {
      return make();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw config.origin.fail([{ path: ['scheduler', key], message: `scheduler.${key}: ${error.message}` }], error);
    }
  };
  const { shared, whole } = attempt('partition', () => {
    const { shared, rest, of } = setAside(source, sharedExamples, seed);
    return { shared, whole: of(makePartition(how, rest, { clients, seed })) };
  });
  // Whether it can be done is known before threads are started.
  if (shift.name === 'rotation')
    attempt('feature_shift', () => rotationViews(dataset.info.inputs[0]?.shape ?? [], shift));
  const { train, held } = heldOut(whole, metrics.holdout, seed);
  return { whole, source, partition: train, measured: metrics.holdout > 0 ? held : train, shared };
}

/** Shares the training examples out as a config says, and draws a picture of it in the run folder. @throws as `divide` */
export async function shareOut(
  { prepared, folder }: Execution,
  settings: RunSettings & { readonly clients: number },
  sharedExamples: number,
): Promise<SharedOut> {
  const { whole, source, ...division } = await divide(prepared, settings, sharedExamples);
  const { partition: how, feature_shift: shift } = settings;
  const { seed } = prepared.config;
  const picture = join(folder.path, 'partition.svg');
  const angle = (client: number, turned: RotationShift) => angleOf(groupOf(client, turned.groups, seed), turned);
  await writeFileAtomically(
    picture,
    partitionPicture(whole, source, {
      title: `${described(how)}: training examples of ${prepared.dataset.name}`,
      ...(whole.names ? { names: whole.names } : {}),
      ...(shift.name === 'rotation'
        ? { note: (client) => `turned by ${Math.round(angle(client, shift) * 10) / 10}°` }
        : {}),
    }),
  );
  return { ...division, picture };
}

/** A partition, or something else that a config names, in a few words: `dirichlet, alpha 0.5`. */
export function described({ name, ...own }: { readonly name: string; readonly [key: string]: unknown }): string {
  const settings = Object.entries(own).filter(([key]) => key !== 'min_size');
  return [name, ...settings.map(([key, value]) => `${key} ${shown(value)}`)].join(', ');
}

/** How many lists of a list are shown. */
const LISTS = 3;

function shown(value: unknown): string {
  if (!Array.isArray(value) || !value.some((each) => Array.isArray(each))) return String(value);
  const lists = value.slice(0, LISTS).map((each) => `[${each}]`);
  return `${lists.join(' ')}${value.length > LISTS ? ' …' : ''}`;
}
