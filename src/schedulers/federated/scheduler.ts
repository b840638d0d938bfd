import * as z from 'zod';
import {
  type Execution,
  type Finding,
  type RunEvent,
  registerScheduler,
  type Scheduler,
} from '../../coordinator/index.ts';
import { type ContinualSection, continualSection, prepareTasks } from './continual/index.ts';
import { type ProtectionConfig, protectionShape } from './protection.ts';
import { type RoundConfig, roundShape } from './round-schema.ts';
import { fedasyncConfig, fedbuffConfig, runFedasync, runFedbuff } from './run-async.ts';
import { gossipConfig, runGossip } from './run-gossip.ts';
import { runRounds } from './run-rounds.ts';
import { type FederatedStrategy, federatedStrategies } from './strategy.ts';

/** A federated strategy as `scheduler: {name: ...}` takes it: the keys of all strategies with rounds, and its own. */
export function federatedScheduler(strategy: FederatedStrategy): Scheduler<RoundsSettings> {
  const config = z.strictObject({
    ...roundShape,
    ...protectionShape,
    continual: continualSection(),
    ...strategy.config.shape,
  }) as unknown as Scheduler<RoundsSettings>['config'];
  const scheduler = ofClients(
    strategy.name,
    config,
    (execution, settings) =>
      runRounds(execution, strategy, settings as RoundsSettings & Readonly<Record<string, unknown>>),
    (settings) => [...enoughForQuorum(settings), ...refusedSetting(strategy, settings)],
  );
  return {
    ...scheduler,
    prepare: (given, settings) => settings.continual && prepareTasks(given, settings.continual, settings),
  };
}

type RoundsSettings = RoundConfig & ProtectionConfig & { readonly continual: ContinualSection | null };

/** A scheduler that trains clients in place of the ranks of a mesh. */
function ofClients<C>(
  name: string,
  config: Scheduler<C>['config'],
  alone: (execution: Execution, settings: C) => AsyncGenerator<RunEvent, void>,
  check?: (settings: C) => readonly Finding[],
): Scheduler<C> {
  return {
    name,
    config,
    run: () => {
      throw new Error(`the scheduler "${name}" trains clients, and cannot drive the ranks of a mesh`);
    },
    ...(check ? { check: (_, settings) => check(settings) } : {}),
    alone,
  };
}

/** A round that asks fewer than must answer never counts. */
function enoughForQuorum({ quorum, cohort, clients }: RoundsSettings): Finding[] {
  const most = Math.min(cohort, clients);
  if (quorum <= most) return [];
  return [
    {
      path: ['scheduler', 'quorum'],
      message: `scheduler.quorum ${quorum} is more than a round asks (${most}), so that no round would ever count: lower it, or raise scheduler.${cohort <= clients ? 'cohort' : 'clients'}`,
    },
  ];
}

/** What a strategy cannot do with so few clients, as far as a config says how many there are. */
function refusedSetting(strategy: FederatedStrategy, settings: RoundsSettings): Finding[] {
  const { cohort, partition } = settings;
  const clients = partition.name === 'natural' ? cohort : settings.clients;
  const refused = strategy.refused?.(settings as never, { cohort, clients });
  return refused ? [{ path: ['scheduler', refused.key], message: refused.message }] : [];
}

/** Nobody trains twice at a time. */
function enoughClients({
  concurrency,
  clients,
}: {
  readonly concurrency: number;
  readonly clients: number;
}): Finding[] {
  if (concurrency <= clients) return [];
  return [
    {
      path: ['scheduler', 'concurrency'],
      message: `scheduler.concurrency ${concurrency} is more than there are clients (${clients}): lower it, or raise scheduler.clients`,
    },
  ];
}

/** Makes all registered federated strategies, and those without rounds or server, known to configs. */
export function registerFederated(): void {
  for (const strategy of federatedStrategies().values()) registerScheduler(federatedScheduler(strategy));
  registerScheduler(ofClients('fedbuff', fedbuffConfig, runFedbuff, enoughClients));
  registerScheduler(ofClients('fedasync', fedasyncConfig, runFedasync, enoughClients));
  registerScheduler(ofClients('gossip', gossipConfig, runGossip));
}
