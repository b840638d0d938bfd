import type { Execution } from '../../../coordinator/index.ts';
import { distinct, type Partition } from '../../../data/index.ts';
import { createRng, type HostTensor } from '../../../tensor/index.ts';
import type { ClientBehaviour } from '../behaviour.ts';
import { type ClientFigures, figuresOf, lookedAt } from '../client-metrics.ts';
import type { RoundCompression, UpdateCompression } from '../compression.ts';
import type { FederatedPlan } from '../federated-plan.ts';
import type { FitPool } from '../fit-pool.ts';
import type { ProtectionConfig } from '../protection.ts';
import type { RoundConfig } from '../round-schema.ts';
import type { FederatedStep } from '../run-record.ts';
import { doubles, readDoubles, type SavedTensors } from '../saved-tensors.ts';
import type { SharedOut } from '../share-out.ts';
import type { RoundReport } from '../simulation.ts';
import type { FederatedServer } from '../strategy.ts';
import { RoundsFailed } from './errors.ts';
import type { NatsClients } from './nats-clients.ts';
import { Participants } from './participants.ts';

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
  readonly objective: FederatedPlan['objective'];
  /** How parameters and updates travel as fewer bytes; null: as they are. */
  readonly compression: RoundCompression | null;
  readonly settings: RoundConfig &
    Pick<ProtectionConfig, 'secure_aggregation'> & { readonly compression?: UpdateCompression };
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
  readonly #participants: Participants;
  /** Rounds after which what clients keep counts: now, and as of the newest checkpoint. */
  readonly #kept: KeptRounds;
  #cohort: readonly number[] = [];
  /** Clients that it was drawn from. */
  #there = 0;
  #attempt = 0;
  #retries = 0;

  private constructor(parts: DeploymentParts, participants: Participants, kept: KeptRounds) {
    const { roster } = participants;
    this.#parts = parts;
    this.#kept = kept;
    this.#participants = participants;
    this.clients = participants.clients;
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
    const { saved, settings, server } = parts;
    const now = new Map<number, number>();
    if (saved?.names.includes(KEPT_ROUNDS)) {
      const pairs = await readDoubles(saved, KEPT_ROUNDS);
      for (let i = 0; i < pairs.length; i += 2) now.set(pairs[i] as number, pairs[i + 1] as number);
    }
    const kept: KeptRounds = { now, durable: new Map(now) };
    const participants = await Participants.open({
      ...parts,
      deadlineMs: (settings.round_deadline_s ?? ROUND_DEADLINE_S) * 1000,
      wanted: server.reads ?? [],
      kept: (client) => ({ now: kept.now.get(client) ?? null, durable: kept.durable.get(client) ?? null }),
      secure: settings.secure_aggregation,
    });
    return new Deployment(parts, participants, kept);
  }

  /** Draws the cohort of a round from those that are there. With all of them there it is the simulation's. */
  readonly choose = (round: number, count: number): readonly number[] => {
    const there = this.#participants.roster.numbers();
    const { seed } = this.#parts.execution.prepared.config;
    const rng = createRng(seed).fork('cohort', round, ...(this.#attempt === 0 ? [] : [this.#attempt]));
    const drawn = distinct(rng, Math.min(count, there.length), there.length);
    this.#there = there.length;
    this.#cohort = [...drawn].map((i) => there[i] as number).sort((a, b) => a - b);
    return this.#cohort;
  };

  /** Clients that were there when the round's cohort was drawn. */
  readonly drawnFrom = (): number => this.#there;

  /**
   * Runs a round with `next`, which tries the same one again until it counts.
   * @returns its report, or null if the run was stopped before there was one
   * @throws RoundsFailed if too few clients come, or the round has failed too often
   */
  async round(next: () => Promise<RoundReport>): Promise<RoundReport | null> {
    const { signal } = this.#participants;
    const { quorum, cohort, clients } = this.#parts.settings;
    const hint = '--min-clients or scheduler.quorum';
    const enough = { need: quorum, first: Math.min(cohort, clients), what: 'a round', hint };
    for (this.#attempt = 0; ; this.#attempt++) {
      if (!(await this.#participants.enough(enough))) return null;
      this.clients.begin();
      const report = await next().catch((error: unknown) => {
        if (error instanceof RoundsFailed) return error;
        throw error;
      });
      if (!(report instanceof Error) && report.counted) {
        const dropped = new Set(report.dropped.map(({ client }) => client));
        for (const client of this.#cohort)
          if (!dropped.has(client) && this.clients.keeps(client)) this.#kept.now.set(client, report.round);
        return this.#measured(report);
      }
      const why = report instanceof Error ? report.message : this.#failure(report);
      if (signal.aborted) return null;
      if (this.#attempt + 1 >= ATTEMPTS)
        throw new RoundsFailed(
          `${why}. It was tried ${ATTEMPTS} times; the checkpoint has all rounds before it (--resume)`,
        );
      this.#retries += 1;
      this.#participants.emit({
        type: 'warning',
        message: `${why}; trying again (${this.#attempt + 2} of ${ATTEMPTS})`,
      });
    }
  }

  /** For the line of metrics of the round that was run last: with it, the round can be computed again by a simulation. */
  told(): Pick<FederatedStep, 'seconds' | 'metrics' | 'notes'> {
    const { ready, quarantined } = this.#participants.roster;
    return {
      seconds: null,
      metrics: { clients_there: ready, quarantined, retries: this.#retries },
      notes: { cohort: this.#cohort },
    };
  }

  /** How parameters do for those who are there, or for a sample of them, as they say themselves; null if nobody does. */
  async figures(params: Float32Array, state: Float32Array, round: number): Promise<ClientFigures | null> {
    const { client_metrics: wanted } = this.#parts.settings;
    const { seed } = this.#parts.execution.prepared.config;
    const there = this.#participants.roster.numbers();
    const asked = lookedAt(wanted, there.length, seed).map((i) => there[i] as number);
    if (asked.length === 0) return null;
    const start = this.clients.publish(params, state);
    const reports = await this.clients.measure(start, asked, {
      round,
      held: wanted.holdout > 0,
      signal: this.#participants.signal,
    });
    const told = reports.flatMap((report, i) => (report ? [{ client: asked[i] as number, report }] : []));
    if (told.length === 0) return null;
    const { metrics, notes } = figuresOf(
      'client',
      told.map(({ report }) => report),
    );
    return { metrics, notes: { clients_evaluated: told.map(({ client }) => client), ...notes } };
  }

  /** For a checkpoint. What it knows of clients can be come back to from now on. */
  tensors(): Readonly<Record<string, HostTensor>> {
    this.#kept.durable = new Map(this.#kept.now);
    return { [KEPT_ROUNDS]: doubles([...this.#kept.now].flat()) };
  }

  /** Lets the clients go. */
  close(): Promise<void> {
    return this.#participants.close();
  }

  #failure({ round, dropped, uncounted }: RoundReport): string {
    const who = dropped.map(({ client, reason }) => `${this.#participants.roster.nameOf(client)}: ${reason}`);
    return `round ${round} does not count: ${uncounted ?? 'too few answered'}${who.length > 0 ? ` (${who.slice(0, 5).join('; ')})` : ''}`;
  }

  /** A report with names, and with what really travelled. */
  #measured(report: RoundReport): RoundReport {
    const { down, up } = this.clients.bytes;
    const dropped = report.dropped.map((each) => ({ ...each, name: this.#participants.roster.nameOf(each.client) }));
    return { ...report, dropped, bytesDown: down, bytesUp: up };
  }
}

/** Rounds after which what clients keep counts, by client: now, and as of the newest checkpoint. */
interface KeptRounds {
  readonly now: Map<number, number>;
  durable: ReadonlyMap<number, number>;
}
