import { availableParallelism } from 'node:os';
import type { PreparedRun } from '../../coordinator/index.ts';
import type { Partition } from '../../data/index.ts';
import { modelParams, modelState } from '../../modules/index.ts';
import { objectiveNamed, vectorLayout } from '../local/index.ts';
import { ClientFitter } from './client-fitter.ts';
import { downloadCodec, typicalUpdateBytes, type UpdateCompression } from './compression.ts';
import type { TasksPlan } from './continual/index.ts';
import { localBatch, type RunSettings } from './round-schema.ts';
import { sentRuns, sizeOfRuns } from './sent-parts.ts';
import { described, divide } from './share-out.ts';
import { type FederatedStrategy, federatedStrategies } from './strategy.ts';

/** What a federated run would do, without starting it. */
export interface FederatedOutline {
  readonly scheduler: string;
  /** `train.steps`: rounds, or versions where nobody waits for others. */
  readonly steps: number;
  readonly unit: 'rounds' | 'versions';
  readonly clients: number;
  /** Clients that train in a round, or at a time. */
  readonly width: number;
  /** How examples are shared out, in a few words, and how many clients have. */
  readonly partition: string;
  readonly examples: Extent;
  readonly epochs: number;
  /** Examples of a local step; null for all that a client has. */
  readonly batch: number | null;
  /** Local steps of a client in a round. */
  readonly local_steps: Extent;
  readonly parameters: number;
  /** How updates are written, in a few words; null for as they are. */
  readonly compression: string | null;
  /** Bytes to and from one client that takes part once. */
  readonly bytes_to_client: number;
  readonly bytes_from_client: number;
  /** What these bytes leave out, or count although it may not be sent; null where they are exact. */
  readonly bytes_note: string | null;
  readonly threads: number;
}

/** The least, the middle and the most. */
export interface Extent {
  readonly least: number;
  readonly median: number;
  readonly most: number;
}

/** Keys that some federated schedulers have and others do not. */
interface Settings extends RunSettings {
  readonly clients: number;
  readonly cohort?: number;
  readonly concurrency?: number;
  readonly local_epochs: number;
  readonly local_batch: number | null;
  readonly threads: number;
  readonly compression?: UpdateCompression;
}

/** Clients that are looked at to say how many examples they have. */
const LOOKED_AT = 10_000;

/** What a run with clients in place of ranks would do; null where the config is not of such a run. @throws as `divide` */
export async function outlineOf(prepared: PreparedRun): Promise<FederatedOutline | null> {
  const { name, ...own } = prepared.config.scheduler;
  const strategy = federatedStrategies().get(name);
  if (!strategy && !['fedbuff', 'fedasync', 'gossip'].includes(name)) return null;
  const settings = own as unknown as Settings;
  const { partition } = await divide(prepared, settings, strategy?.sharedExamples?.(own as never) ?? 0);
  const { local_epochs: epochs, cohort, concurrency, compression } = settings;
  const batch = localBatch(settings);
  const objective = strategy?.objective?.(own as never) ?? { name: 'none', config: {} };
  const { config, data } = prepared;
  const tasks = prepared.scheduling?.plan as TasksPlan | undefined;
  const fitter = await ClientFitter.create({
    ...{ seed: config.seed, model: config.model, optim: config.optim, data, objective, batch },
    engine: { ...config.engine, threads: 1 },
    ...(tasks ? { continual: tasks.job } : {}),
  });
  const { params, received, sent } = fitter.sizes;
  await fitter.dispose();
  const runs = sentRuns(objectiveNamed(objective.name, objective.config), vectorLayout(modelParams(prepared.model)));
  const whole = 4 * sizeOfRuns(runs);
  const down = (compression && downloadCodec(compression)?.typicalBytes(sizeOfRuns(runs))) ?? whole;
  const up = compression ? typicalUpdateBytes({ config: compression, sent: runs }) : whole;
  const sizes = sizesOf(partition);
  return {
    scheduler: name,
    steps: config.train.steps,
    unit: concurrency === undefined ? 'rounds' : 'versions',
    clients: partition.clients,
    width: Math.min(cohort ?? concurrency ?? partition.clients, partition.clients),
    partition: described(settings.partition),
    examples: extentOf(sizes),
    epochs,
    batch: settings.local_batch,
    local_steps: extentOf(sizes.map((size) => epochs * Math.ceil(size / batch))),
    parameters: params,
    compression: compression && compression.name !== 'none' ? described(compression) : null,
    bytes_to_client: 4 * received - whole + down,
    bytes_from_client: 4 * sent - whole + up,
    bytes_note: noteOf(prepared, strategy, own, partition.clients),
    threads: settings.threads > 0 ? settings.threads : availableParallelism(),
  };
}

/** What is to be said of the bytes of a strategy. */
function noteOf(
  { config, dataset, model }: PreparedRun,
  strategy: FederatedStrategy | undefined,
  own: Readonly<Record<string, unknown>>,
  clients: number,
): string | null {
  if (own.secure_aggregation) return 'and what secure aggregation takes';
  if (!strategy) return null;
  const server = strategy.server(own as never, {
    ...{ params: vectorLayout(modelParams(model)), state: vectorLayout(modelState(model)), clients },
    ...{ seed: config.seed, model: { model, info: dataset.info } },
  });
  return server.traffic ? 'at most: the strategy has a way of its own to send less' : null;
}

/** Examples of each client, or of as many as are looked at. */
function sizesOf({ clients, size }: Partition): number[] {
  const count = Math.min(clients, LOOKED_AT);
  return Array.from({ length: count }, (_, i) => size(Math.floor((i * clients) / count)));
}

function extentOf(values: readonly number[]): Extent {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (place: number) => sorted[place] ?? 0;
  return { least: at(0), median: at(Math.floor(sorted.length / 2)), most: at(sorted.length - 1) };
}
