import { setImmediate } from 'node:timers/promises';
import * as z from 'zod';
import { createRng } from '../../../tensor/index.ts';
import type { Beginning, Collector } from '../collector.ts';
import type { ClientUpdate } from '../strategy.ts';
import { rememberedKeyAgreement } from './key-agreement.ts';
import { type MaskJob, maskedIn, maskUpdates } from './mask-update.ts';
import { levelsFor, type QuantiseOptions, roundingKey } from './quantise.ts';
import { SecAggClient, type Unmasking } from './secagg-client.ts';
import { SecAggError } from './secagg-error.ts';
import { SecAggServer, secAggGraph } from './secagg-server.ts';
import { outsideRange, takeMasksOff } from './secagg-sum.ts';

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

/** Bytes of two public keys. */
export const KEYS_BYTES = 64;
/** Bytes of sealed shares: two of 32, where they lie, nonce and tag. */
export const SEALED_BYTES = 93;
/** Bytes of a share that is told: its own, and where it lies. */
export const SHARE_BYTES = 33;

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
    begin: async (beginning) => {
      const { round, members } = beginning;
      const graph = roundGraph(config, seed, round, members);
      const ready = await resultOrReason(() => agree(beginning, graph));
      return {
        collect: async ({ updates, clipNorm }) => {
          const range = clipNorm ?? config.range;
          const checked = updates.map((given) => withinRange(given, range));
          const sending = checked.filter(({ report }) => report.problem === null);
          const weight = sending.reduce((total, { report }) => total + report.weight, 0);
          const reports = checked.map(({ report }) => report);
          const levels = { range, levels: levelsFor(members.length) };
          const result =
            sending.length < 2
              ? tooFew(sending.length, members.length)
              : typeof ready === 'string'
                ? ready
                : await resultOrReason(() => aggregate(ready, sending, levels));
          if (typeof result === 'string') return { sum: null, weight, reports, failure: result, down: 0, up: 0 };
          return { ...result, weight, reports, failure: null };
        },
      };
    },
  };

  async function aggregate(
    { beginning, server, clients, edges }: Agreement,
    sending: readonly ClientUpdate[],
    levels: QuantiseOptions,
  ) {
    const { round, members, largest, mask = async (jobs: readonly MaskJob[]) => maskUpdates(jobs) } = beginning;
    const given = new Map(sending.map((each) => [each.report.client, each]));
    // Neighbours next to each other.
    const jobs = [...clients].flatMap(([member, client]) => {
      const { update, report } = given.get(member) ?? {};
      if (!update || !report) return [];
      const share = report.weight / largest;
      const rounding = { levels: { ...levels, share }, key: roundingKeyOf(seed, round, member) };
      return [{ update, rounding, masks: client.masks() }];
    });
    await mask(jobs);
    const arrived = sending.map(({ update, report }) => ({ client: report.client, vector: maskedIn(update) }));
    for (const { client, vector } of arrived) onArrival?.(client, vector);
    server.addAllMasked(arrived);
    const survivors = server.survivors();
    const answers: Unmasking[] = survivors.map((member) => (clients.get(member) as SecAggClient).unmask(survivors));
    const sum = takeMasksOff(server, answers, levels, largest);
    const told = answers.reduce((total, { shares }) => total + shares.length, 0);
    return {
      sum,
      down: edges * (KEYS_BYTES + SEALED_BYTES) + 4 * survivors.length * survivors.length,
      up: members.length * KEYS_BYTES + edges * SEALED_BYTES + told * SHARE_BYTES,
    };
  }
}

/** Who is whose neighbour in a round. */
export function roundGraph(
  config: SecureAggregationConfig,
  seed: number,
  round: number,
  members: readonly number[],
): ReadonlyMap<number, readonly number[]> {
  const neighbours = config.name === 'secagg' ? members.length - 1 : config.neighbours;
  return secAggGraph(members, neighbours, ofRound(seed, round).fork('graph'));
}

/** What a client of a round rounds its update with. */
export function roundingKeyOf(seed: number, round: number, client: number): Uint8Array {
  return roundingKey(ofRound(seed, round).fork('rounding', client));
}

const ofRound = (seed: number, round: number) => createRng(seed).fork('secure aggregation', round);

/** A round whose clients have keys, and shares of each other's secrets. */
interface Agreement {
  readonly beginning: Beginning;
  readonly server: SecAggServer;
  readonly clients: ReadonlyMap<number, SecAggClient>;
  /** Pairs of neighbours, each counted from both sides. */
  readonly edges: number;
}

/** The first two steps, in which clients' updates play no part. In between others get the thread: clients train meanwhile. */
async function agree(beginning: Beginning, graph: ReadonlyMap<number, readonly number[]>): Promise<Agreement> {
  // (Whoever trains has yet to be told to.)
  await setImmediate();
  const { round, members, length } = beginning;
  const degree = graph.get(members[0] as number)?.length ?? 0;
  const terms = { id: `round ${round}`, length };
  const server = new SecAggServer(terms, graph);
  const agreement = rememberedKeyAgreement();
  const clients = new Map([...graph.keys()].map((member) => [member, new SecAggClient(member, terms, agreement)]));
  for (const client of clients.values()) server.addKeys(client.keys());
  for (const client of clients.values()) {
    server.addShares(client.client, client.share(server.neighboursOf(client.client), server.threshold));
    await setImmediate();
  }
  for (const client of clients.values()) {
    client.receive(server.sharesFor(client.client));
    await setImmediate();
  }
  return { beginning, server, clients, edges: members.length * degree };
}

/** Why so few updates are not added up. */
export function tooFew(sending: number, members: number): string {
  return `${sending} of ${members} clients sent an update: a sum of fewer than two hides nothing`;
}

/** What comes of it, or why an aggregation cannot go on. (Anything else that is thrown is a fault of ours.) */
export async function resultOrReason<T>(run: () => Promise<T>): Promise<T | string> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof SecAggError) return error.message;
    throw error;
  }
}

/** A client whose update cannot be written as integers of the ring does not send it. */
function withinRange({ update, report }: ClientUpdate, range: number): ClientUpdate {
  const problem = report.problem ?? outsideRange(update, range);
  return problem === report.problem ? { update, report } : { update, report: { ...report, problem } };
}
