import { z } from 'zod';
import { createRng } from '../../../tensor/index.ts';
import type { Answers, Collected, Collector } from '../collector.ts';
import type { ClientUpdate } from '../strategy.ts';
import { dequantiseSum, levelsFor, quantise } from './quantise.ts';
import { SecAggClient, type Unmasking } from './secagg-client.ts';
import { SecAggError } from './secagg-error.ts';
import { SecAggServer, secAggGraph, secAggThreshold } from './secagg-server.ts';

const range = z
  .number()
  .positive()
  .default(8)
  .describe(
    "largest change of a parameter that can be sent; a client with a larger one is left out and named (with privacy, the bound on the update's norm takes its place)",
  );

/** The `secure_aggregation` section. */
export const secureAggregationSchema = z
  .discriminatedUnion('name', [
    z.strictObject({
      name: z.literal('secagg').describe('every client shares a mask with every other one (Bonawitz et al. 2017)'),
      range,
    }),
    z.strictObject({
      name: z.literal('secagg+').describe('every client shares masks with a few others (Bell et al. 2020)'),
      neighbours: z
        .int()
        .min(2)
        .max(254)
        .default(20)
        .describe('others that a client shares masks with; fewer than half of them may leave'),
      range,
    }),
  ])
  .nullable()
  .default(null)
  .describe('updates are masked so that the server sees their sum alone; null sends them as they are');

/** Settings of secure aggregation. */
export type SecureAggregationConfig = NonNullable<z.output<typeof secureAggregationSchema>>;

/** Bytes of two public keys; of sealed shares (two of 32 bytes, where they lie, nonce and tag); of a share that is told. */
const [KEYS, SEALED, SHARE] = [64, 93, 33];

/** How a secure aggregation of rounds is made. */
export interface SecureCollectorOptions {
  readonly config: SecureAggregationConfig;
  /** For who is whose neighbour, and for rounding; keys and masks are never drawn from it. */
  readonly seed: number;
  /** Called with everything that arrives at the server of a client's update. */
  readonly onArrival?: (client: number, masked: Uint32Array) => void;
}

/**
 * Adds the updates of a round up under masks. Clients that were asked and give no update leave after they have shared their keys,
 * the latest moment that there is, so that the others must take their masks off. Keys are drawn anew in every round; what comes
 * out does not depend on them, since masks cancel exactly in the ring of integers modulo 2^32.
 */
export function secureCollector({ config, seed, onArrival }: SecureCollectorOptions): Collector {
  return {
    collect: (answers) => {
      const range = answers.clipNorm ?? config.range;
      const checked = answers.updates.map((given) => withinRange(given, range));
      const sending = checked.filter(({ report }) => report.problem === null);
      const weight = sending.reduce((total, { report }) => total + report.weight, 0);
      const reports = checked.map(({ report }) => report);
      const failed = (failure: string): Collected => ({ sum: null, weight, reports, failure, down: 0, up: 0 });
      try {
        return { ...aggregate(sending, reports.length + answers.left.length, answers), weight, reports, failure: null };
      } catch (error) {
        // (Anything else is a fault of ours.)
        if (error instanceof SecAggError) return failed(error.message);
        throw error;
      }
    },
  };

  function aggregate(sending: readonly ClientUpdate[], count: number, { round, updates, left, clipNorm }: Answers) {
    const members = [...updates.map(({ report }) => report.client), ...left].sort((a, b) => a - b);
    if (sending.length < 2)
      throw new SecAggError(
        `${sending.length} of ${count} clients sent an update: a sum of fewer than two hides nothing`,
      );
    const rng = createRng(seed).fork('secure aggregation', round);
    const graph = secAggGraph(members, config.name === 'secagg' ? count - 1 : config.neighbours, rng.fork('graph'));
    const degree = graph.get(members[0] as number)?.length ?? 0;
    const length = sending[0]?.update.length ?? 0;
    const terms = { id: `round ${round}`, threshold: secAggThreshold(degree), length };
    const levels = { range: clipNorm ?? config.range, levels: levelsFor(members.length) };
    const server = new SecAggServer(terms, graph);
    const clients = new Map(members.map((member) => [member, new SecAggClient(member, terms)]));
    for (const client of clients.values()) server.addKeys(client.keys());
    for (const client of clients.values())
      server.addShares(client.client, client.share(server.neighboursOf(client.client)));
    for (const client of clients.values()) client.receive(server.sharesFor(client.client));
    // Weights go in as shares of the largest one, so that nothing leaves the range.
    const largest = Math.max(...sending.map(({ report }) => report.weight));
    for (const { update, report } of sending) {
      const share = report.weight / largest;
      const values = share === 1 ? update : update.map((value) => value * share);
      const client = clients.get(report.client) as SecAggClient;
      const masked = client.mask(quantise(values, levels, rng.fork('rounding', report.client)));
      onArrival?.(report.client, masked);
      server.addMasked(report.client, masked);
    }
    const survivors = server.survivors();
    const answers: Unmasking[] = survivors.map((member) => (clients.get(member) as SecAggClient).unmask(survivors));
    const sum = dequantiseSum(server.finish(answers), survivors.length, levels);
    if (largest !== 1) for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) * largest;
    const edges = members.length * degree;
    const told = answers.reduce((total, { shares }) => total + shares.length, 0);
    return {
      sum,
      down: edges * (KEYS + SEALED) + 4 * survivors.length * survivors.length,
      up: members.length * KEYS + edges * SEALED + told * SHARE,
    };
  }
}

/** A client whose update cannot be written as integers of the ring does not send it. */
function withinRange(given: ClientUpdate, range: number): ClientUpdate {
  if (given.report.problem !== null) return given;
  let largest = 0;
  for (const value of given.update) if (Math.abs(value) > largest) largest = Math.abs(value);
  // (A clipped norm may be above its bound by a rounding.)
  if (largest <= range * (1 + 1e-6)) return given;
  const problem = `its update changes a value by ${largest.toPrecision(4)}, the range of secure aggregation is ${range}`;
  return { update: given.update, report: { ...given.report, problem } };
}
