import { z } from 'zod';
import { registerScheduler, type Scheduler } from '../../coordinator/index.ts';
import { type RoundConfig, roundShape } from './round-schema.ts';
import { runRounds } from './run-rounds.ts';
import { type FederatedStrategy, federatedStrategies } from './strategy.ts';

/** A federated strategy as `scheduler: {name: ...}` takes it: the keys of all strategies with rounds, and its own. */
export function federatedScheduler(strategy: FederatedStrategy): Scheduler<RoundConfig> {
  const config = z.strictObject({
    ...roundShape,
    ...strategy.config.shape,
  }) as unknown as Scheduler<RoundConfig>['config'];
  return {
    name: strategy.name,
    config,
    run: () => {
      throw new Error(`the scheduler "${strategy.name}" trains clients, and cannot drive the ranks of a mesh`);
    },
    alone: (execution, settings) =>
      runRounds(execution, strategy, settings as RoundConfig & Readonly<Record<string, unknown>>),
  };
}

/** Makes all registered federated strategies known to configs. */
export function registerFederated(): void {
  for (const strategy of federatedStrategies().values()) registerScheduler(federatedScheduler(strategy));
}
