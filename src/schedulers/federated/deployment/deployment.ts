import { join } from 'node:path';
import type { Execution } from '../../../coordinator/index.ts';
import { distinct, encodingOf, type Partition } from '../../../data/index.ts';
import { createRng, type HostTensor } from '../../../tensor/index.ts';
import type { ClientBehaviour } from '../behaviour.ts';
import type { RoundCompression, UpdateCompression } from '../compression.ts';
import type { FitPool } from '../fit-pool.ts';
import type { ProtectionConfig } from '../protection.ts';
import type { RoundConfig } from '../round-schema.ts';
import type { FederatedStep } from '../run-record.ts';
import { doubles, readDoubles, type SavedTensors } from '../saved-tensors.ts';
import type { SharedOut } from '../share-out.ts';
import type { RoundReport } from '../simulation.ts';
import type { FederatedServer } from '../strategy.ts';
import { RoundsFailed } from './errors.ts';
import type { JobDescription } from './messages.ts';
import { NatsClients } from './nats-clients.ts';
import { packed } from './payload.ts';
import { Roster, type RosterNews } from './roster.ts';

/** Seconds that a round may take where the config does not say. */
export const ROUND_DEADLINE_S = 60;
/** Times that a round is tried. */
const ATTEMPTS = 5;
/** Name of what is known of what clients keep, among the tensors of a checkpoint. */
const KEPT_ROUNDS = 'run/client rounds';

/** What real clients take part in. */
export interface DeploymentParts {
  readonly execution: Execution;
  readonly pool: FitPool;
  readonly saved: SavedTensors | null;
  readonly server: FederatedServer;
  readonly objective: { readonly name: string; readonly config: unknown };
  /** How parameters and updates travel as fewer bytes; null: as they are. */
  readonly compression: RoundCompression | null;
  readonly settings: RoundConfig &
    Pick<ProtectionConfig, 'secure_aggregation'> & { readonly compression?: UpdateCompression };
}

/** Why a config's rounds cannot be run with real clients; null if they can. */
export function notDeployable(execution: Execution, sharedExamples: number): string | null {
  if ('file' in execution.model)
    return 'clients take models by name only: code does not travel. Use a model of the zoo, or simulate (without --nats)';
  if (sharedExamples > 0) return 'this strategy needs examples that all clients share, which exist in simulations only';
  return null;
}

/** Who has which examples where clients have their own: nobody here knows. */
export function nobodysExamples(clients: number): SharedOut {
  const none = { size: () => 0, examples: () => new Int32Array(0) };
  return { partition: { clients, ...none }, measured: { clients: 0, ...none }, shared: null, picture: '' };
}

/**
 * Real clients in the rounds of a run: waits for them, draws each round's cohort from those that are there, tries a round again
 * whose quorum was not met, and keeps what a resumed run needs to know of them.
 */
export class Deployment {
  readonly clients: NatsClients;
  readonly partition: Partition;
  readonly behaviour: ClientBehaviour;
  readonly #parts: DeploymentParts;
  readonly #roster: Roster;
  /** Rounds after which what clients keep counts: now, and as of the newest checkpoint. */
  readonly #kept: Map<number, number>;
  #durable: ReadonlyMap<number, number>;
  #cohort: readonly number[] = [];
  /** Whether this process has seen as many clients as it was to wait for. */
  #began = false;
  #attempt = 0;
  #retries = 0;

  private constructor(parts: DeploymentParts, roster: Roster, kept: ReadonlyMap<number, number>) {
    this.#parts = parts;
    this.#roster = roster;
    this.#kept = new Map(kept);
    this.#durable = kept;
    const { execution, pool, settings, server } = parts;
    const { config } = execution.prepared;
    const leaseMs = config.comm.lease_s * 1000;
    const { connection, job } = execution.nats as NonNullable<Execution['nats']>;
    this.clients = new NatsClients({
      ...{ nats: connection, job, run: execution.folder.id, roster, local: pool },
      description: describe(parts),
      deadlineMs: (settings.round_deadline_s ?? ROUND_DEADLINE_S) * 1000,
      beatMs: leaseMs / 5,
      maxNorm: settings.max_norm,
      wanted: server.reads ?? [],
      compression: parts.compression,
      secure: settings.secure_aggregation ? { config: settings.secure_aggregation, seed: config.seed } : null,
      kept: (client) => ({ now: this.#kept.get(client) ?? null, durable: this.#durable.get(client) ?? null }),
      warn: (message) => this.#emit({ type: 'warning', message }),
    });
    this.partition = {
      get clients() {
        return roster.size;
      },
      size: (client) => roster.examples(client),
      // Their own numbers of their own examples: which they are, they alone know.
      examples: (client) => new Int32Array(roster.examples(client)),
    };
    this.behaviour = { available: () => true, leaves: () => false, speed: () => 1, seconds: () => 0 };
  }

  /** Begins to listen to clients. */
  static async open(parts: DeploymentParts): Promise<Deployment> {
    const { execution, saved } = parts;
    const kept = new Map<number, number>();
    if (saved?.names.includes(KEPT_ROUNDS)) {
      const pairs = await readDoubles(saved, KEPT_ROUNDS);
      for (let i = 0; i < pairs.length; i += 2) kept.set(pairs[i] as number, pairs[i + 1] as number);
    }
    const roster = await Roster.open({
      file: join(execution.folder.path, 'clients.json'),
      leaseMs: execution.prepared.config.comm.lease_s * 1000,
      news: (news) => execution.clients?.emit({ type: 'client', ...said(news) }),
    });
    return new Deployment(parts, roster, kept);
  }

  /** Draws the cohort of a round from those that are there. With all of them there it is the simulation's. */
  readonly choose = (round: number, count: number): readonly number[] => {
    const there = this.#roster.numbers();
    const { seed } = this.#parts.execution.prepared.config;
    const rng = createRng(seed).fork('cohort', round, ...(this.#attempt === 0 ? [] : [this.#attempt]));
    const drawn = distinct(rng, Math.min(count, there.length), there.length);
    this.#cohort = [...drawn].map((i) => there[i] as number).sort((a, b) => a - b);
    return this.#cohort;
  };

  /**
   * Runs a round with `next`, which tries the same one again until it counts.
   * @returns its report, or null if the run was stopped before there was one
   * @throws RoundsFailed if too few clients come, or the round has failed too often
   */
  async round(next: () => Promise<RoundReport>): Promise<RoundReport | null> {
    const signal = this.#signal;
    for (this.#attempt = 0; ; this.#attempt++) {
      if (!(await this.#enough(signal))) return null;
      this.clients.begin();
      const report = await next().catch((error: unknown) => {
        if (error instanceof RoundsFailed) return error;
        throw error;
      });
      if (!(report instanceof Error) && report.counted) {
        const dropped = new Set(report.dropped.map(({ client }) => client));
        for (const client of this.#cohort)
          if (!dropped.has(client) && this.clients.keeps(client)) this.#kept.set(client, report.round);
        return this.#measured(report);
      }
      const why = report instanceof Error ? report.message : this.#failure(report);
      if (signal.aborted) return null;
      if (this.#attempt + 1 >= ATTEMPTS)
        throw new RoundsFailed(
          `${why}. It was tried ${ATTEMPTS} times; the checkpoint has all rounds before it (--resume)`,
        );
      this.#retries += 1;
      this.#emit({ type: 'warning', message: `${why}; trying again (${this.#attempt + 2} of ${ATTEMPTS})` });
    }
  }

  /** For the line of metrics of the round that was run last: with it, the round can be computed again by a simulation. */
  told(): Pick<FederatedStep, 'seconds' | 'metrics' | 'notes'> {
    const { ready, quarantined } = this.#roster;
    return {
      seconds: null,
      metrics: { clients_there: ready, quarantined, retries: this.#retries },
      notes: { cohort: this.#cohort },
    };
  }

  /** For a checkpoint. What it knows of clients can be come back to from now on. */
  tensors(): Readonly<Record<string, HostTensor>> {
    this.#durable = new Map(this.#kept);
    return { [KEPT_ROUNDS]: doubles([...this.#kept].flat()) };
  }

  /** Lets the clients go. */
  async close(): Promise<void> {
    await this.clients.close('the server has ended this session');
    await this.#roster.close();
  }

  get #signal(): AbortSignal {
    return this.#parts.execution.signal ?? new AbortController().signal;
  }

  /** Waits until there are enough clients for a round. @throws RoundsFailed if they do not come */
  async #enough(signal: AbortSignal): Promise<boolean> {
    const { execution, settings } = this.#parts;
    const { quorum, cohort, clients } = settings;
    const need = this.#began ? quorum : Math.max(quorum, execution.clients?.min ?? Math.min(cohort, clients));
    const { wait_s } = execution.prepared.config.recovery;
    const enough = await this.#roster.enough(need, wait_s * 1000, signal, (have) =>
      this.#emit({ type: 'waiting', have, need, what: 'clients' }),
    );
    if (signal.aborted) return false;
    if (!enough)
      throw new RoundsFailed(
        `${this.#roster.ready} of the ${need} clients that a round needs came within ${wait_s} s (recovery.wait_s): ` +
          'start more with `plexus client`, or lower --min-clients or scheduler.quorum',
      );
    this.#began = true;
    return true;
  }

  #failure({ round, dropped, uncounted }: RoundReport): string {
    const who = dropped.map(({ client, reason }) => `${this.#roster.nameOf(client)}: ${reason}`);
    return `round ${round} does not count: ${uncounted ?? 'too few answered'}${who.length > 0 ? ` (${who.slice(0, 5).join('; ')})` : ''}`;
  }

  /** A report with names, and with what really travelled. */
  #measured(report: RoundReport): RoundReport {
    const { down, up } = this.clients.bytes;
    const dropped = report.dropped.map((each) => ({ ...each, name: this.#roster.nameOf(each.client) }));
    return { ...report, dropped, bytesDown: down, bytesUp: up };
  }

  #emit(event: Parameters<NonNullable<Execution['clients']>['emit']>[0]): void {
    this.#parts.execution.clients?.emit(event);
  }
}

function said(news: RosterNews) {
  if (news.what === 'joined') return { what: news.what, client: news.name, reason: `${news.examples} examples` };
  return { what: news.what, client: news.name, reason: news.reason };
}

/** What clients are told of a run. */
function describe({ execution, settings, objective }: DeploymentParts): JobDescription {
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
    secure: settings.secure_aggregation !== null,
    engine: config.engine.kind,
    data: { section, encoding: encodingOf(data) },
    partition: { how: partition, holdout: metrics.holdout },
    more: packed({ shift, ...(compression ? { compression } : {}) }) as Record<string, unknown>,
  };
}
