import type { PreparedData } from '../../../data/index.ts';
import { buildModel, modelParams } from '../../../modules/index.ts';
import { optimSchema } from '../../../optim/index.ts';
import { FitPool } from '../fit-pool.ts';
import type { ClientFit, ClientReport, EvaluateReport, FitJob } from '../fit-task.ts';
import type { MaskJob } from '../privacy/index.ts';
import { localBatch } from '../round-schema.ts';
import { type AllowList, checkExamples, checkJob, checkModelSize } from './allow-list.ts';
import { ClientRefusal } from './errors.ts';
import { type LocalDataSource, localData } from './local-data.ts';
import type { JobDescription } from './messages.ts';
import { unpacked } from './payload.ts';

/** Vectors that a client begins with. */
export interface StartVectors {
  readonly params: Float32Array;
  readonly state: Float32Array;
  readonly round: Readonly<Record<string, Float32Array>>;
}

/** A fit as a client is asked for it: its own examples are its own affair. */
export type ClientWork = Omit<ClientFit, 'examples' | 'weight' | 'attack'>;

/** What computes for a client: a thread in a real one. */
export interface ClientCompute {
  readonly examples: number;
  readonly paramsSize: number;
  readonly stateSize: number;
  /** The report has what the job's codec wrote of the update, if it has one. */
  fit(start: StartVectors, work: ClientWork): Promise<{ readonly update: Float32Array; readonly report: ClientReport }>;
  /** Masks an update. @returns it as it may leave the client, in memory of its own */
  mask(job: MaskJob): Promise<Float32Array>;
  ask(
    start: StartVectors,
    who: { readonly client: number; readonly round: number },
    task: string,
    config: unknown,
  ): Promise<unknown>;
  /** Sums over its own examples: those it trains on, or those held out. @throws ClientRefusal if it has held none out */
  loss(start: StartVectors, client: number, held: boolean): Promise<EvaluateReport>;
  close(): Promise<void>;
}

/** What a client computes with and on. */
export interface ComputeOptions {
  readonly source: LocalDataSource;
  readonly allow: AllowList;
  /** Where it computes. Default cpu. */
  readonly device?: string;
}

/**
 * Reads the data, builds the model and starts a thread that computes, so that the connection lives while it does.
 * @throws ClientRefusal or DataError where the job asks for something that is not allowed, or that the data does not have
 */
export async function startCompute(job: JobDescription, options: ComputeOptions): Promise<ClientCompute> {
  const { source, allow } = options;
  checkJob(allow, job);
  const { prepared, examples, held: kept, classes } = await localData(source, job);
  checkExamples(allow, { examples: examples.length, classes }, job.batch);
  const pool = await poolFor(job, prepared, options).catch((error: Error) => {
    throw error instanceof ClientRefusal
      ? error
      : new ClientRefusal(`what the job describes cannot be made here: ${error.message}`, { cause: error });
  });
  const publish = ({ params, state, round }: StartVectors) => pool.publish(params, state, round);
  return {
    examples: examples.length,
    paramsSize: pool.paramsSize,
    stateSize: pool.stateSize,
    fit: async (start, work) => {
      const [done] = await pool.each(publish(start), [{ ...work, examples, weight: 1 }], { encoded: true });
      return done as { update: Float32Array; report: ClientReport };
    },
    mask: async (job) => {
      const update = new Float32Array(new SharedArrayBuffer(job.update.byteLength));
      update.set(job.update);
      await pool.mask([{ ...job, update }]);
      return update;
    },
    ask: async (start, who, task, config) => (await pool.ask(publish(start), [{ ...who, examples }], task, config))[0],
    loss: async (start, client, held) => {
      if (held && kept.length === 0) throw new ClientRefusal('it has too few examples to hold any out');
      return pool.evaluate(publish(start), 'train', held ? kept : examples, client);
    },
    close: () => pool.close(),
  };
}

/** A thread with the job's model and the client's data. */
async function poolFor(
  job: JobDescription,
  data: PreparedData,
  { allow, device = 'cpu' }: ComputeOptions,
): Promise<FitPool> {
  const { model } = await buildModel(job.model, data.info);
  checkModelSize(
    allow,
    modelParams(model).reduce((sum, { spec }) => sum + spec.shape.reduce((a, b) => a * b, 1), 0),
  );
  const { seed, objective } = job;
  const batch = localBatch({ local_batch: job.batch });
  return FitPool.start({
    job: {
      ...(unpacked(job.more) as Partial<FitJob>),
      ...{ seed, objective, batch, data },
      model: job.model,
      optim: optimSchema.parse(job.optim),
      // One thread, as simulated clients have: bits depend on it.
      engine: { kind: job.engine, device, threads: 1 },
    },
    threads: 1,
  });
}
