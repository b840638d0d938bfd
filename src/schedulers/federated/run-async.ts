import * as z from 'zod';
import type { Execution, RunEvent } from '../../coordinator/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import { type AsyncServer, fedasync, fedbuff } from './async-server.ts';
import { AsyncSimulation, type AsyncState, type FlightRecord } from './async-simulation.ts';
import { clientBehaviour } from './behaviour.ts';
import { AsyncDeployment, Participants } from './deployment/index.ts';
import type { FederatedParts, FederatedPlan, FederatedTraining } from './federated-plan.ts';
import { runFederated } from './federated-run.ts';
import { localBatch, roundShape, runShape } from './round-schema.ts';
import { doubles, readDoubles, type SavedTensors } from './saved-tensors.ts';
import type { NewVersion } from './version-buffer.ts';

const { clients, local_epochs, local_batch, behaviour, max_norm, threads } = roundShape;

const asyncShape = {
  clients,
  concurrency: z.int().min(1).default(10).describe('clients that train at the same time'),
  local_epochs: local_epochs.describe('passes of a client over its own examples'),
  local_batch,
  ...runShape,
  behaviour,
  max_norm,
  max_staleness: z
    .int()
    .min(0)
    .nullable()
    .default(null)
    .describe('versions after which an update is too old to be used; null for no bound'),
  staleness_exponent: z
    .number()
    .min(0)
    .default(0.5)
    .describe('a in (1 + staleness)^-a, the weight of an update that began so many versions ago'),
  fit_deadline_s: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('seconds after which nobody waits for a client any more; null waits for all (real clients: ten minutes)'),
  threads,
} as const;

/** Schema of `scheduler` for FedBuff; a new version of the parameters is one of `train.steps`. */
export const fedbuffConfig = z.strictObject({
  ...asyncShape,
  buffer: z.int().min(1).default(10).describe('updates that make a new version of the parameters together'),
  server_lr: z.number().positive().default(1).describe('factor on the mean of the weighted updates'),
});

/** Schema of `scheduler` for FedAsync; every update is one of `train.steps`. */
export const fedasyncConfig = z.strictObject({
  ...asyncShape,
  alpha: z.number().gt(0).max(1).default(0.6).describe("share of a client's parameters in the mix, if they are fresh"),
});

/** Settings of all asynchronous runs. */
export type AsyncConfig = z.output<z.ZodObject<typeof asyncShape>>;

/** Runs FedBuff: `train.steps` versions. */
export function runFedbuff(
  execution: Execution,
  settings: z.output<typeof fedbuffConfig>,
): AsyncGenerator<RunEvent, void> {
  const { buffer, server_lr: serverLr, staleness_exponent: exponent } = settings;
  return runAsync(execution, settings, fedbuff({ buffer, serverLr, exponent }));
}

/** Runs FedAsync: `train.steps` updates. */
export function runFedasync(
  execution: Execution,
  settings: z.output<typeof fedasyncConfig>,
): AsyncGenerator<RunEvent, void> {
  const { alpha, staleness_exponent: exponent } = settings;
  return runAsync(execution, settings, fedasync({ alpha, exponent }));
}

function runAsync(execution: Execution, settings: AsyncConfig, server: AsyncServer): AsyncGenerator<RunEvent, void> {
  const objective = { name: 'none', config: {} };
  return runFederated(execution, settings, () => ({
    width: settings.concurrency,
    steps: 'versions',
    objective,
    remote: true,
    make: (parts) =>
      execution.clients ? deployedTraining(parts, server, settings, objective) : asyncTraining(parts, server, settings),
  }));
}

/** Seconds that a real client's fit may take where the config does not say. */
const FIT_DEADLINE_S = 600;

/** Prefix of what only asynchronous runs keep among the tensors of a checkpoint. */
const ASYNC = 'async/';
const startName = (version: number) => `${ASYNC}start/${version}`;

async function asyncTraining(
  { pool, partition, seed, params, state, saved }: FederatedParts,
  server: AsyncServer,
  settings: AsyncConfig,
): Promise<FederatedTraining> {
  const simulation = new AsyncSimulation(
    {
      pool,
      partition,
      server,
      behaviour: clientBehaviour(settings.behaviour, seed),
      seed,
      concurrency: settings.concurrency,
      local: { epochs: settings.local_epochs, batch: localBatch(settings) },
      maxStaleness: settings.max_staleness,
      maxNorm: settings.max_norm,
      deadlineSeconds: settings.fit_deadline_s,
    },
    params,
    state,
    saved ? await readState(saved) : undefined,
  );
  const bytes = 4 * (pool.paramsSize + pool.stateSize);
  return {
    next: async () => {
      const began = performance.now();
      const before = simulation.time;
      const report = await simulation.next();
      return {
        ...told(report, { down: bytes * report.begun, up: bytes * report.reports.length }, settings.local_epochs),
        seconds: report.time - before,
        ms: performance.now() - began,
      };
    },
    underway: () => simulation.underway,
    model: () => ({ params, state }),
    tensors: () => stateTensors(simulation.snapshot()),
    close: () => simulation.settle(),
  };
}

/** With real clients. What they are at is not kept: a run that goes on asks them anew, with its newest version. */
async function deployedTraining(
  { execution, pool, seed, params, state, saved }: FederatedParts,
  server: AsyncServer,
  settings: AsyncConfig,
  objective: FederatedPlan['objective'],
): Promise<FederatedTraining> {
  const from = saved ? await readState(saved) : undefined;
  const deadlineMs = (settings.fit_deadline_s ?? FIT_DEADLINE_S) * 1000;
  const participants = await Participants.open({
    ...{ execution, pool, settings, objective, deadlineMs, compression: null, secure: null },
    wanted: [],
    kept: () => ({ now: null, durable: null }),
  });
  const deployment = new AsyncDeployment(
    {
      ...{ participants, server, seed, deadlineMs },
      concurrency: Math.min(settings.concurrency, settings.clients),
      local: { epochs: settings.local_epochs, batch: localBatch(settings) },
      maxStaleness: settings.max_staleness,
      maxNorm: settings.max_norm,
    },
    params,
    state,
    from,
  );
  return {
    next: async () => {
      const began = performance.now();
      const report = await deployment.next();
      if (report === null) return null;
      const { ready, quarantined } = deployment.there;
      const step = told(report, report, settings.local_epochs);
      return {
        ...step,
        metrics: { ...step.metrics, clients_there: ready, quarantined },
        // With it the version can be computed again by a simulation.
        notes: { ...step.notes, answers: report.answers },
        seconds: null,
        ms: performance.now() - began,
      };
    },
    underway: () => deployment.underway,
    model: () => ({ params, state }),
    tensors: () => stateTensors({ ...deployment.progress, time: from?.time ?? 0, flights: [], starts: new Map() }),
    close: () => deployment.close(),
  };
}

function told(
  { reports, dropped, staleness, loss }: NewVersion,
  { down, up }: { readonly down: number; readonly up: number },
  epochs: number,
) {
  return {
    loss,
    examples: epochs * reports.reduce((sum, { examples }) => sum + examples, 0),
    bytes: down + up,
    metrics: { clients: reports.length, dropped: dropped.length, staleness, bytes_down: down, bytes_up: up },
    notes: { counted: true, dropped_clients: dropped },
  };
}

/** Flights as rows of client, number, version and end, behind version, time and number of fits begun. */
function stateTensors({ version, time, started, flights, starts }: AsyncState): Record<string, HostTensor> {
  const rows = flights.flatMap((flight) => [flight.client, flight.number, flight.version, flight.until]);
  const tensors: Record<string, HostTensor> = { [`${ASYNC}clock`]: doubles([version, time, started, ...rows]) };
  for (const [number, both] of starts) tensors[startName(number)] = float32(both, [both.length]);
  return tensors;
}

async function readState(saved: SavedTensors): Promise<AsyncState> {
  const [version = 0, time = 0, started = 0, ...rows] = await readDoubles(saved, `${ASYNC}clock`);
  const flights: FlightRecord[] = [];
  for (let at = 0; at < rows.length; at += 4) {
    const [client, number, from, until] = rows.slice(at, at + 4) as [number, number, number, number];
    flights.push({ client, number, version: from, until });
  }
  const starts = new Map<number, Float32Array>();
  for (const { version: from } of flights)
    if (from !== version && !starts.has(from))
      starts.set(from, Float32Array.from((await saved.read(startName(from))).data as Float32Array));
  return { version, time, started, flights, starts };
}
