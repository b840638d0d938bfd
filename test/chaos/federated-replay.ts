import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { resolveConfig } from '../../src/coordinator/index.ts';
import { iid, openDataset, type Partition, prepareData } from '../../src/data/index.ts';
import { buildModel, initParams, modelParams } from '../../src/modules/index.ts';
import {
  ClientStore,
  clientBehaviour,
  FitPool,
  fedbuff,
  federatedStrategies,
  partOf,
  RoundSimulation,
  type SecureAggregationConfig,
  type SharedStart,
  secureCollector,
  VersionBuffer,
  vectorLayout,
} from '../../src/schedulers/index.ts';
import { tablesTogether } from './federated-tables.ts';
import { CLIENTS } from './federated-world.ts';

/** What a round was, as metrics.jsonl has it. */
export interface PlayedRound {
  readonly cohort?: readonly number[];
  readonly dropped_clients: readonly { readonly client: number }[];
}

/** What a version was, as metrics.jsonl has it. */
export interface PlayedVersion {
  readonly answers?: readonly { readonly client: number; readonly fit: number; readonly version: number }[];
}

/**
 * What a run of clients began with.
 * @param tables CSV files that clients have of their own, in order of their numbers; null: five clients with iid parts
 */
async function opened(run: string, tables: readonly string[] | null = null) {
  const config = resolveConfig(join(run, 'config.yaml'));
  const settings = config.scheduler as unknown as {
    readonly clients: number;
    readonly local_epochs: number;
    readonly local_batch: number;
    readonly behaviour: never;
    readonly secure_aggregation: SecureAggregationConfig | null;
    /** Of those without rounds. */
    readonly buffer: number;
    readonly server_lr: number;
    readonly staleness_exponent: number;
  };
  const own = tables && (await tablesTogether(config.data, tables));
  const data = own?.data ?? (await prepareData(config.data));
  const dataset = openDataset(data);
  const { model } = await buildModel(config.model, dataset.info);
  const params = vectorLayout(modelParams(model));
  const { seed } = config;
  const vector = new Float32Array(params.size);
  const drawn = initParams(modelParams(model), seed);
  for (const place of params.places) partOf(vector, place).set(drawn[place.path]?.data as Float32Array);
  const { local_batch: batch } = settings;
  const pool = await FitPool.start({
    job: {
      ...{ seed, model: config.model, optim: config.optim, data, objective: { name: 'none', config: {} }, batch },
      engine: { kind: 'onnx', device: 'cpu', threads: 1 },
    },
    threads: 1,
  });
  const split = dataset.split('train');
  const partition =
    own?.partition ??
    withStrangers(iid({ examples: split.examples, labels: split.labels ?? null }, { clients: CLIENTS, seed }));
  const digest = () => {
    const hash = createHash('sha256');
    for (const place of [...params.places].sort((a, b) => (a.path < b.path ? -1 : 1)))
      hash.update(new Uint8Array(partOf(vector, place).slice().buffer));
    return hash.digest('hex');
  };
  return { settings, seed, params, vector, pool, partition, digest };
}

/** Clients beyond those with parts have any examples: what they sent was not used. */
function withStrangers(partition: Partition): Partition {
  const known = (client: number) => Math.min(client, CLIENTS - 1);
  return {
    clients: partition.clients,
    size: (client) => partition.size(known(client)),
    examples: (client) => partition.examples(known(client)),
  };
}

/**
 * Runs the rounds of a deployment again, as a simulation in which the same clients are asked, and the same ones do not answer.
 * @param tables as `opened` takes them
 * @returns `weights_sha256` of what comes out
 */
export async function replayed(
  rounds: readonly PlayedRound[],
  run: string,
  tables: readonly string[] | null = null,
): Promise<string> {
  const { settings, seed, params, vector, pool, partition, digest } = await opened(run, tables);
  const strategy = federatedStrategies().get('fedavg');
  if (!strategy) throw new Error('there is no fedavg');
  const { clients, local_batch: batch, local_epochs: epochs } = settings;
  try {
    let at = 0;
    const absent = (client: number) => rounds[at]?.dropped_clients.some((each) => each.client === client);
    const simulation = new RoundSimulation(
      {
        pool: Object.assign(Object.create(pool, { trained: { get: () => pool.trained } }), {
          ...{ paramsSize: pool.paramsSize, stateSize: pool.stateSize },
          ...{ receivedSize: pool.receivedSize, sentSize: pool.sentSize },
          publish: pool.publish.bind(pool),
          retire: pool.retire.bind(pool),
          add: pool.add.bind(pool),
          mask: pool.mask.bind(pool),
          giveBack: pool.giveBack.bind(pool),
          each: async (...args: Parameters<FitPool['each']>) =>
            (await pool.each(...args)).map(({ update, report }) =>
              absent(report.client)
                ? { update, report: { ...report, problem: 'it did not answer' } }
                : { update, report },
            ),
        }) as FitPool,
        partition,
        server: strategy.server({} as never, { params, state: vectorLayout([]), clients, seed }),
        store: new ClientStore(),
        behaviour: clientBehaviour(settings.behaviour, seed),
        ...{ seed, cohort: clients, quorum: 1, local: { epochs, batch }, deadlineSeconds: null },
        // (A bound, so that updates are looked at one by one.)
        maxNorm: 1e9,
        choose: (round) => rounds[round]?.cohort ?? [],
        collector: settings.secure_aggregation ? secureCollector({ config: settings.secure_aggregation, seed }) : null,
      },
      vector,
      new Float32Array(0),
    );
    for (at = 0; at < rounds.length; at++) await simulation.next();
    return digest();
  } finally {
    await pool.close();
  }
}

/**
 * Makes the versions of a FedBuff deployment of five clients again, out of the answers that each was made of, in their order.
 * @returns `weights_sha256` of what comes out
 */
export async function remade(versions: readonly PlayedVersion[], run: string): Promise<string> {
  const { settings, vector, pool, partition, digest } = await opened(run);
  const { buffer, server_lr: serverLr, staleness_exponent: exponent, local_epochs: epochs } = settings;
  const state = new Float32Array(0);
  const starts = [pool.publish(vector, state)];
  try {
    for (const [now, { answers = [] }] of versions.entries()) {
      const made = new VersionBuffer(fedbuff({ buffer, serverLr, exponent }), vector, state);
      for (const { client, fit, version } of answers) {
        const start = starts[version] as SharedStart;
        const asked = { client, round: fit, examples: partition.examples(client).slice(), epochs };
        const own = { maxSteps: null, firstStep: 0, weight: 1, clipNorm: null, kept: {} };
        const [answer] = await pool.each(start, [{ ...asked, ...own }]);
        if (answer) made.add({ ...answer, start, staleness: now - version });
      }
      made.apply();
      starts.push(pool.publish(vector, state));
    }
    return digest();
  } finally {
    await pool.close();
  }
}
