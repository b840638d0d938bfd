import { distinct, type Partition } from '../../data/index.ts';
import { createRng } from '../../tensor/index.ts';
import type { KeptVectors } from './client-store.ts';
import type { FitPool } from './fit-pool.ts';
import type { EvaluateReport, SharedStart } from './fit-task.ts';
import type { ClientMetricsConfig } from './round-schema.ts';

/** How a figure differs between clients. Percentiles are interpolated between neighbours. */
export interface Spread {
  readonly mean: number;
  readonly std: number;
  readonly p10: number;
  readonly p50: number;
  readonly p90: number;
  /** Mean of the worst tenth of the clients, at least of one. */
  readonly worst_decile: number;
}

/** @param better whether `more` or `less` of it is better: what the worst tenth is. @throws RangeError without values */
export function spreadOf(values: readonly number[], better: 'more' | 'less'): Spread {
  if (values.length === 0) throw new RangeError('there are no values to compare');
  const sorted = [...values].sort((a, b) => a - b);
  const meanOf = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const mean = meanOf(values);
  const percentile = (share: number) => {
    const at = share * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(at)] as number, sorted[Math.ceil(at)] as number];
    return low + (at - Math.floor(at)) * (high - low);
  };
  const tenth = Math.ceil(sorted.length / 10);
  return {
    mean,
    std: Math.sqrt(meanOf(values.map((value) => (value - mean) ** 2))),
    p10: percentile(0.1),
    p50: percentile(0.5),
    p90: percentile(0.9),
    worst_decile: meanOf(better === 'more' ? sorted.slice(0, tenth) : sorted.slice(-tenth)),
  };
}

/** What is known of single clients after an evaluation. */
export interface ClientFigures {
  /** `client_accuracy_mean` and so on; `client_loss_…` where there are no classes, `personal_…` of clients' own models. */
  readonly metrics: Readonly<Record<string, number>>;
  /** The clients that were looked at, and the figure of each, in the same order. */
  readonly notes: Readonly<Record<string, readonly number[]>>;
}

/** Which of so many clients are looked at one by one, in rising order. */
export function lookedAt({ clients: most }: ClientMetricsConfig, clients: number, seed: number): number[] {
  const drawn = distinct(createRng(seed).fork('client metrics'), Math.min(most, clients), clients);
  return [...drawn].sort((a, b) => a - b);
}

/** Measures the model on each client's own examples, or on those of a sample of the clients. */
export class ClientMetrics {
  readonly #measured: Partition;
  readonly #config: ClientMetricsConfig;
  readonly #seed: number;
  readonly #clients: readonly number[];

  /** @param measured what each client is measured on; clients without any are passed over */
  constructor(measured: Partition, config: ClientMetricsConfig, seed: number) {
    this.#measured = measured;
    this.#config = config;
    this.#seed = seed;
    this.#clients = lookedAt(config, measured.clients, seed).filter((client) => measured.size(client) > 0);
  }

  /**
   * @param kept what clients keep, where their own models are to be looked at too; null where they have none
   * @returns null if no client is to be looked at
   */
  async measure(
    pool: Pick<FitPool, 'evaluateClients'>,
    start: SharedStart,
    kept: ((client: number) => KeptVectors) | null,
  ): Promise<ClientFigures | null> {
    if (this.#clients.length === 0) return null;
    const common = await pool.evaluateClients(
      start,
      this.#each(() => ({})),
    );
    const figures = [figuresOf('client', common)];
    if (kept) figures.push(figuresOf('personal', await pool.evaluateClients(start, this.#each(kept))));
    return {
      metrics: Object.assign({}, ...figures.map(({ metrics }) => metrics)),
      notes: Object.assign({ clients_evaluated: this.#clients }, ...figures.map(({ notes }) => notes)),
    };
  }

  *#each(kept: (client: number) => KeptVectors) {
    for (const client of this.#clients) yield { client, examples: this.#examples(client), kept: kept(client) };
  }

  /** A client's examples, or a sample of them: they may be in order of their classes. */
  #examples(client: number): Int32Array {
    const all = this.#measured.examples(client);
    const most = this.#config.examples;
    if (all.length <= most) return all.slice();
    const places = distinct(createRng(this.#seed).fork('client metrics', client), most, all.length);
    return places.sort().map((at) => all[at] as number);
  }
}

/** How what was measured of clients differs between them. `of`: whose model it is. @throws RangeError without reports */
export function figuresOf(of: 'client' | 'personal', reports: readonly EvaluateReport[]): ClientFigures {
  const classes = reports.every(({ correct }) => correct !== null);
  const name = `${of}_${classes ? 'accuracy' : 'loss'}`;
  const values = reports.map(({ correct, loss, examples }) => (classes ? (correct as number) : loss) / examples);
  const spread = spreadOf(values, classes ? 'more' : 'less');
  return {
    metrics: Object.fromEntries(Object.entries(spread).map(([key, value]) => [`${name}_${key}`, value])),
    notes: { [`${name}_each`]: values.map((value) => Math.round(value * 1e6) / 1e6) },
  };
}
