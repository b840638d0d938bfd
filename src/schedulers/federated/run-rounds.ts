import type { Execution, RunEvent } from '../../coordinator/index.ts';
import { clientBehaviour } from './behaviour.ts';
import { ClientStore } from './client-store.ts';
import { type FederatedParts, type FederatedTraining, runFederated } from './federated-run.ts';
import { epsilonFigure, type PrivateServer, secureCollector } from './privacy/index.ts';
import { type ProtectionConfig, protect } from './protection.ts';
import type { RoundConfig } from './round-schema.ts';
import type { FederatedStep } from './run-record.ts';
import { readVectors, type SavedTensors, vectorTensors } from './saved-tensors.ts';
import { type RoundReport, RoundSimulation } from './simulation.ts';
import type { FederatedServer, FederatedStrategy } from './strategy.ts';

/** Prefix of the server's vectors among the tensors of a checkpoint. */
const SERVER = 'server/';
const clientPrefix = (client: number) => `client/${client}/`;

/** Runs a strategy that works in rounds; a round is one of `train.steps`. */
export function runRounds(
  execution: Execution,
  strategy: FederatedStrategy,
  settings: RoundConfig & ProtectionConfig & Readonly<Record<string, unknown>>,
): AsyncGenerator<RunEvent, void> {
  const { seed } = execution.prepared.config;
  return runFederated(execution, settings, (layouts) => {
    const model = { model: execution.prepared.model, info: execution.prepared.dataset.info };
    const shape = { ...layouts, clients: settings.clients, seed, model };
    const unsuited = strategy.unsuited?.(settings as never, shape);
    if (unsuited) {
      const message = `scheduler ${strategy.name}: ${unsuited}`;
      throw execution.prepared.config.origin.fail([{ path: ['scheduler', 'name'], message }]);
    }
    const inner = strategy.server(settings as never, shape);
    const { server, account } = protect(execution, strategy.name, inner, settings, shape);
    return {
      width: settings.cohort,
      objective: strategy.objective?.(settings as never) ?? { name: 'none', config: {} },
      sharedExamples: strategy.sharedExamples?.(settings as never) ?? 0,
      make: (parts) => roundTraining(parts, server, account, settings),
    };
  });
}

/** Rounds with everything that they keep: the server's vectors, and the clients'. */
async function roundTraining(
  { pool, partition, seed, params, state, step, saved }: FederatedParts,
  server: FederatedServer,
  account: PrivateServer | null,
  settings: RoundConfig & ProtectionConfig,
): Promise<FederatedTraining> {
  const { secure_aggregation: secure, privacy } = settings;
  const store = new ClientStore();
  if (saved) {
    await readVectors(saved, SERVER, server.vectors ?? {});
    await readClients(saved, store);
  }
  const simulation = new RoundSimulation(
    {
      pool,
      partition,
      server,
      store,
      behaviour: clientBehaviour(settings.behaviour, seed),
      seed,
      cohort: settings.cohort,
      quorum: settings.quorum,
      local: { epochs: settings.local_epochs, batch: settings.local_batch },
      deadlineSeconds: settings.round_deadline_s,
      maxNorm: settings.max_norm,
      collector: secure ? secureCollector({ config: secure, seed }) : null,
    },
    params,
    state,
    step,
  );
  return {
    next: async () => stepOf(await simulation.next()),
    model: () => ({ params, state }),
    tensors: () =>
      Object.assign(
        vectorTensors(SERVER, server.vectors ?? {}),
        ...store.clients().map((client) => vectorTensors(clientPrefix(client), store.get(client))),
      ),
    // (No epsilon where there is no noise: JSON has no infinity.)
    summary: () => (account && privacy ? { ...epsilonFigure(account.spent()), delta: privacy.delta } : {}),
    close: async () => store.close(),
  };
}

/** What is told of a round. */
function stepOf(report: RoundReport): FederatedStep {
  return {
    loss: report.loss,
    examples: report.examples,
    ms: report.ms,
    seconds: report.seconds,
    bytes: report.bytesDown + report.bytesUp,
    metrics: {
      clients: report.completed,
      dropped: report.dropped.length,
      bytes_down: report.bytesDown,
      bytes_up: report.bytesUp,
      ...report.metrics,
    },
    notes: {
      counted: report.counted,
      ...(report.uncounted === null ? {} : { uncounted: report.uncounted }),
      dropped_clients: report.dropped,
    },
  };
}

/** Puts back what clients keep. */
async function readClients(saved: SavedTensors, store: ClientStore): Promise<void> {
  const kept = new Map<number, Record<string, Float32Array>>();
  for (const name of saved.names) {
    const match = /^client\/(\d+)\/(.+)$/.exec(name);
    if (!match) continue;
    const client = Number(match[1]);
    const vectors = kept.get(client) ?? {};
    kept.set(client, vectors);
    vectors[match[2] as string] = Float32Array.from((await saved.read(name)).data as Float32Array);
  }
  for (const [client, vectors] of kept) store.set(client, vectors);
}
