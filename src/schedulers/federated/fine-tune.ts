import type { Partition } from '../../data/index.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientFit, EvaluateReport } from './fit-task.ts';

/** Clients that make a model their own after training, and what they are measured on. */
export interface FineTuneOptions {
  readonly pool: FitPool;
  /** The trained model. */
  readonly params: Float32Array;
  readonly state: Float32Array;
  /** `round` tensors that the fits are given: for FedETF `tune`, which asks for its passes of fine-tuning. */
  readonly tensors: Readonly<Record<string, Float32Array>>;
  /** What clients train on, and examples of the training split that each is measured on. */
  readonly train: Partition;
  readonly measured: Partition;
  readonly clients: readonly number[];
  /** Passes over a client's examples that come first, as in a round. */
  readonly epochs: number;
  /** Completed rounds: what random keys and orders of examples follow. */
  readonly round: number;
}

/** The same client with the model that all have, and with its own. */
export interface FineTuned {
  readonly client: number;
  readonly before: EvaluateReport;
  readonly after: EvaluateReport;
  /** Why it has no model of its own (its training diverged); it is measured with the common one then. */
  readonly problem: string | null;
}

/** Clients that are fine-tuned at a time, whose models are in memory. */
const TOGETHER = 8;

/**
 * Local fine-tuning for personalisation: each client trains the model on its own examples, and keeps the result. Nothing comes
 * back to the server. Clients without examples to be measured on are passed over.
 */
export async function fineTune(options: FineTuneOptions): Promise<FineTuned[]> {
  const { pool, params, state, tensors, train, measured, epochs, round } = options;
  const clients = options.clients.filter((client) => measured.size(client) > 0 && train.size(client) > 0);
  const common = pool.publish(params, state, tensors);
  const results: FineTuned[] = [];
  for (let from = 0; from < clients.length; from += TOGETHER) {
    const some = clients.slice(from, from + TOGETHER);
    const fits = some.map(
      (client): ClientFit => ({
        client,
        round,
        examples: train.examples(client).slice(),
        epochs,
        maxSteps: null,
        firstStep: 0,
        weight: 1,
        clipNorm: null,
        kept: {},
      }),
    );
    for (const [i, { update, report }] of (await pool.each(common, fits)).entries()) {
      const client = some[i] as number;
      const examples = measured.examples(client).slice();
      const own = pool.publish(
        params.map((value, k) => value + (update[k] as number)),
        state.map((value, k) => value + (update[params.length + k] as number)),
      );
      const [before, after] = await Promise.all([
        pool.evaluate(common, 'train', examples),
        pool.evaluate(own, 'train', examples),
      ]);
      results.push({ client, before, after, problem: report.problem });
    }
  }
  return results;
}
