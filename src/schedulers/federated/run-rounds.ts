import type { Execution, RunEvent } from '../../coordinator/index.ts';
import { buildOptimizer } from '../../optim/index.ts';
import { objectiveNamed } from '../local/index.ts';
import { clientBehaviour } from './behaviour.ts';
import { ClientStore } from './client-store.ts';
import { clientTensors, readClientTensors } from './client-tensors.ts';
import { compressesUpdates } from './compression.ts';
import { refusedFederation, type TaskOver, TaskRounds, type TasksPlan } from './continual/index.ts';
import { Deployment } from './deployment/index.ts';
import type { FederatedParts, FederatedPlan, FederatedTraining } from './federated-plan.ts';
import { runFederated } from './federated-run.ts';
import { epsilonFigure, type PrivateServer, secureCollector } from './privacy/index.ts';
import { type ProtectionConfig, protect } from './protection.ts';
import { localBatch, type RoundConfig } from './round-schema.ts';
import type { FederatedStep } from './run-record.ts';
import { type Layouts, readVectors, vectorTensors } from './saved-tensors.ts';
import { type Run, sentRuns } from './sent-parts.ts';
import { type RoundReport, RoundSimulation } from './simulation.ts';
import type { FederatedServer, FederatedStrategy } from './strategy.ts';

/** Prefix of the server's vectors among the tensors of a checkpoint. */
const SERVER = 'server/';

/** Runs a strategy that works in rounds; a round is one of `train.steps`. */
export function runRounds(
  execution: Execution,
  strategy: FederatedStrategy,
  settings: RoundConfig & ProtectionConfig & Readonly<Record<string, unknown>>,
): AsyncGenerator<RunEvent, void> {
  const { seed, origin, optim } = execution.prepared.config;
  const plan = (layouts: Layouts, clients: number): FederatedPlan => {
    const model = { model: execution.prepared.model, info: execution.prepared.dataset.info };
    const { optimizer } = buildOptimizer(optim, { totalSteps: execution.prepared.config.train.steps });
    const shape = { ...layouts, clients, seed, model, optimizer };
    const unsuited = strategy.unsuited?.(settings as never, shape);
    if (unsuited) {
      const message = `scheduler ${strategy.name}: ${unsuited}`;
      throw origin.fail([{ path: ['scheduler', 'name'], message }]);
    }
    // (Who has a client for each key of the data knows how many there are only now.)
    const refusal = strategy.refused?.(settings as never, { cohort: settings.cohort, clients });
    if (refusal) throw origin.fail([{ path: ['scheduler', refusal.key], message: refusal.message }]);
    const inner = strategy.server(settings as never, shape);
    const { server, account } = protect(execution, strategy.name, inner, { ...settings, clients }, shape);
    const refused = uncompressed(strategy.name, server, settings);
    if (refused)
      throw origin.fail([{ path: ['scheduler', 'compression'], message: `scheduler.compression: ${refused}` }]);
    const objective = strategy.objective?.(settings as never) ?? { name: 'none', config: {} };
    const local = objectiveNamed(objective.name, objective.config);
    const sent = sentRuns(local, layouts.params);
    const tasks = tasksOf(execution);
    const alone = tasks && refusedFederation(strategy, server, local, settings);
    if (alone) throw origin.fail([{ path: ['scheduler', 'continual'], message: `scheduler.continual: ${alone}` }]);
    return {
      ...(tasks ? { continual: tasks.job } : {}),
      width: settings.cohort,
      caution: strategy.caution?.(settings as never, { cohort: Math.min(settings.cohort, clients) }) ?? null,
      objective,
      remote: true,
      make: (parts) => roundTraining(parts, strategy, server, account, settings, sent, objective),
    };
  };
  if (execution.clients && tasksOf(execution)) {
    const message = 'scheduler.continual: tasks are for simulated clients only; leave --nats out';
    throw origin.fail([{ path: ['scheduler', 'continual'], message }]);
  }
  return runFederated(execution, settings, plan, strategy.sharedExamples?.(settings as never) ?? 0);
}

/** The sequence of tasks that clients learn; null where there is none. */
function tasksOf({ prepared }: Execution): TasksPlan | null {
  return (prepared.scheduling?.plan as TasksPlan | undefined) ?? null;
}

/** Why updates cannot go as fewer bytes; null where they can, or are not to. */
function uncompressed(
  strategy: string,
  server: FederatedServer,
  { compression, secure_aggregation: secure }: RoundConfig & ProtectionConfig,
): string | null {
  if (!compressesUpdates(compression)) return null;
  if (secure)
    return 'secure aggregation adds masks to all values of an update, which a codec would round; use one of the two';
  if (server.traffic) return `${strategy} has a way of its own to send less, with which a codec cannot be combined`;
  return null;
}

/** Rounds with everything that they keep: the server's vectors, and the clients'. */
async function roundTraining(
  { execution, pool, partition, measured, seed, params, state, step, seconds, saved }: FederatedParts,
  strategy: FederatedStrategy,
  server: FederatedServer,
  account: PrivateServer | null,
  settings: RoundConfig & ProtectionConfig,
  sent: readonly Run[],
  objective: FederatedPlan['objective'],
): Promise<FederatedTraining> {
  const { secure_aggregation: secure, privacy } = settings;
  const store = new ClientStore();
  if (saved) {
    await readVectors(saved, SERVER, server.vectors ?? {});
    await readClientTensors(saved, store);
  }
  const compression = compressesUpdates(settings.compression) ? { config: settings.compression, sent } : null;
  const deployed = execution.clients
    ? await Deployment.open({ execution, pool, saved, server, objective, compression, settings })
    : null;
  const plan = tasksOf(execution);
  const tasks =
    plan &&
    (await TaskRounds.open(
      { plan, pool, store, partition, folder: execution.folder.path, params, state },
      step,
      saved,
    ));
  const simulation = new RoundSimulation(
    {
      pool: deployed?.clients ?? pool,
      partition: deployed?.partition ?? tasks?.partition ?? partition,
      ...(tasks ? { tell: tasks.tell } : {}),
      server,
      store,
      behaviour: deployed?.behaviour ?? clientBehaviour(settings.behaviour, seed),
      ...(deployed ? { choose: deployed.choose, drawnFrom: deployed.drawnFrom, again: true } : {}),
      seed,
      cohort: settings.cohort,
      quorum: settings.quorum,
      local: { epochs: settings.local_epochs, batch: localBatch(settings) },
      deadlineSeconds: deployed ? null : settings.round_deadline_s,
      maxNorm: settings.max_norm,
      compression,
      collector: deployed ? deployed.clients.collector : secure ? secureCollector({ config: secure, seed }) : null,
    },
    params,
    state,
    step,
    seconds,
  );
  return {
    next: async () => {
      const report = await (deployed ? deployed.round(() => simulation.next()) : simulation.next());
      return report && stepOf(report, deployed?.told(), (await tasks?.ended()) ?? {});
    },
    underway: () => simulation.underway,
    ...(tasks ? { evaluate: (start) => tasks.evaluate(start) } : {}),
    // (What a client says of its examples in the clear is not for a server that must not look at single ones.)
    ...(deployed
      ? { figures: async () => (secure || privacy ? null : deployed.figures(params, state, simulation.round)) }
      : {}),
    model: () => ({ params, state }),
    kept: (client) => store.get(client),
    tensors: () =>
      Object.assign(
        deployed?.tensors() ?? {},
        tasks?.tensors() ?? {},
        vectorTensors(SERVER, server.vectors ?? {}),
        clientTensors(store),
      ),
    // (No epsilon where there is no noise: JSON has no infinity.)
    summary: async () => ({
      ...(account && privacy ? { ...epsilonFigure(account.spent()), delta: privacy.delta } : {}),
      ...tasks?.summary(),
      ...(deployed
        ? {}
        : await strategy.finish?.(settings as never, {
            pool,
            params,
            state,
            partition,
            measured,
            epochs: settings.local_epochs,
            rounds: simulation.round,
            seed,
          })),
    }),
    close: async () => {
      await deployed?.close();
      store.close();
    },
  };
}

/** What is told of a round. */
function stepOf(
  report: RoundReport,
  more: Partial<FederatedStep> = {},
  { event, asked, bytesDown }: Partial<TaskOver> = {},
): FederatedStep {
  const down = report.bytesDown + (bytesDown ?? 0);
  return {
    loss: report.loss,
    examples: report.examples,
    ms: report.ms,
    seconds: more.seconds === undefined ? report.seconds : more.seconds,
    bytes: down + report.bytesUp,
    metrics: {
      clients: report.completed,
      dropped: report.dropped.length,
      bytes_down: down,
      bytes_up: report.bytesUp,
      ...more.metrics,
      ...report.metrics,
    },
    notes: {
      counted: report.counted,
      ...(report.uncounted === null ? {} : { uncounted: report.uncounted }),
      dropped_clients: report.dropped,
      ...(asked === undefined ? {} : { looked_back: asked }),
      ...more.notes,
    },
    events: event ? [event] : [],
  };
}
