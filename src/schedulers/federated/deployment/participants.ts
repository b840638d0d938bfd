import { join } from 'node:path';
import { connectionUp } from '../../../comm/index.ts';
import type { Execution } from '../../../coordinator/index.ts';
import { encodingOf } from '../../../data/index.ts';
import type { RoundCompression, UpdateCompression } from '../compression.ts';
import type { FederatedPlan } from '../federated-plan.ts';
import type { FitPool } from '../fit-pool.ts';
import type { SecureAggregationConfig } from '../privacy/index.ts';
import type { RunSettings } from '../round-schema.ts';
import { RoundsFailed } from './errors.ts';
import type { JobDescription } from './messages.ts';
import { NatsClients, type NatsClientsOptions } from './nats-clients.ts';
import { packed } from './payload.ts';
import { Roster, type RosterNews } from './roster.ts';

/** What real clients take part in. */
export interface ParticipantsOptions extends Pick<NatsClientsOptions, 'deadlineMs' | 'wanted' | 'kept'> {
  readonly execution: Execution;
  readonly pool: FitPool;
  readonly objective: FederatedPlan['objective'];
  readonly settings: RunSettings & {
    readonly local_batch: number | null;
    readonly max_norm: number | null;
    readonly compression?: UpdateCompression;
  };
  /** How parameters and updates travel as fewer bytes; null: as they are. */
  readonly compression: RoundCompression | null;
  /** How updates are added up in secret; null: they come as they are. */
  readonly secure: SecureAggregationConfig | null;
}

/** How many clients are waited for. */
export interface Enough {
  /** How many there have to be, always. */
  readonly need: number;
  /** How many are waited for when this process begins, where `--min-clients` does not say. */
  readonly first: number;
  /** What they are needed for, and the settings that say how many: for messages. */
  readonly what: string;
  readonly hint: string;
}

/** Why a config cannot be run with real clients; null if it can. */
export function notDeployable(execution: Execution, sharedExamples: number): string | null {
  if ('file' in execution.model)
    return 'clients take models by name only: code does not travel. Use a model of the zoo, or simulate (without --nats)';
  if (sharedExamples > 0) return 'this strategy needs examples that all clients share, which exist in simulations only';
  return null;
}

/** The real clients of a run: who is there, what asks them, and what is told of them to whoever watches. */
export class Participants {
  readonly roster: Roster;
  readonly clients: NatsClients;
  readonly #execution: Execution;
  /** Whether this process has seen as many clients as it was to wait for. */
  #began = false;

  private constructor(options: ParticipantsOptions, roster: Roster) {
    const { execution, pool, settings, compression, secure, deadlineMs, wanted, kept } = options;
    const { config } = execution.prepared;
    const { connection, job } = execution.nats as NonNullable<Execution['nats']>;
    this.#execution = execution;
    this.roster = roster;
    this.clients = new NatsClients({
      ...{ nats: connection, job, run: execution.folder.id, roster, local: pool },
      ...{ compression, deadlineMs, wanted, kept },
      description: describe(options),
      beatMs: (config.comm.lease_s * 1000) / 5,
      maxNorm: settings.max_norm,
      secure: secure && { config: secure, seed: config.seed },
      warn: (message) => this.emit({ type: 'warning', message }),
    });
  }

  /** Begins to listen to clients. */
  static async open(options: ParticipantsOptions): Promise<Participants> {
    const { folder, prepared, clients, nats } = options.execution;
    const roster = await Roster.open({
      file: join(folder.path, 'clients.json'),
      leaseMs: prepared.config.comm.lease_s * 1000,
      deaf: () => nats !== undefined && nats !== null && !connectionUp(nats.connection),
      news: (news) => clients?.emit({ type: 'client', ...said(news) }),
    });
    return new Participants(options, roster);
  }

  /** Raised when the run is to stop. */
  get signal(): AbortSignal {
    return this.#execution.signal ?? new AbortController().signal;
  }

  emit(event: Parameters<NonNullable<Execution['clients']>['emit']>[0]): void {
    this.#execution.clients?.emit(event);
  }

  /**
   * Waits until there are enough clients to go on.
   * @returns false if the run was stopped before
   * @throws RoundsFailed if they do not come
   */
  async enough({ need, first, what, hint }: Enough): Promise<boolean> {
    const wanted = this.#began ? need : Math.max(need, this.#execution.clients?.min ?? first);
    const { wait_s } = this.#execution.prepared.config.recovery;
    const { signal } = this;
    const enough = await this.roster.enough(wanted, wait_s * 1000, signal, (have) =>
      this.emit({ type: 'waiting', have, need: wanted, what: 'clients' }),
    );
    if (signal.aborted) return false;
    if (!enough)
      throw new RoundsFailed(
        `${this.roster.ready} of the ${wanted} clients that ${what} needs came within ${wait_s} s (recovery.wait_s): ` +
          `start more with \`plexus client\`, or lower ${hint}`,
      );
    this.#began = true;
    return true;
  }

  /** Lets the clients go. */
  async close(): Promise<void> {
    await this.clients.close('the server has ended this session');
    await this.roster.close();
  }
}

function said(news: RosterNews) {
  if (news.what === 'joined') return { what: news.what, client: news.name, reason: `${news.examples} examples` };
  return { what: news.what, client: news.name, reason: news.reason };
}

/** What clients are told of a run. */
function describe({ execution, settings, objective, secure }: ParticipantsOptions): JobDescription {
  const { config, data } = execution.prepared;
  const { partition, client_metrics: metrics, compression, feature_shift: shift } = settings;
  // No path of this machine is of use elsewhere.
  const section = {
    ...config.data,
    ...('path' in config.data ? { path: config.data.path === null ? null : 'own' } : {}),
  };
  return {
    seed: config.seed,
    model: execution.model as JobDescription['model'],
    optim: config.optim,
    objective: { name: objective.name, config: objective.config },
    batch: settings.local_batch,
    secure: secure !== null,
    engine: config.engine.kind,
    data: { section, encoding: encodingOf(data) },
    partition: { how: partition, holdout: metrics.holdout },
    more: packed({ shift, ...(compression ? { compression } : {}) }) as Record<string, unknown>,
  };
}
