import type { MaskJob, SealedShares } from '../privacy/index.ts';
import { levelsFor, outsideRange, roundingKeyOf, SecAggClient, UnreadableShares } from '../privacy/index.ts';
import type { AllowList } from './allow-list.ts';
import { ClientRefusal } from './errors.ts';
import type { Masking, ToClient } from './messages.ts';

type Asked<T extends ToClient['type']> = Extract<ToClient, { readonly type: T }>;

/**
 * A client's part in secure aggregations: one at a time, each with keys of its own that are nowhere but in memory. What a server
 * asks for out of turn, twice or of another aggregation is refused: two vectors under the same masks would give both away.
 */
export class SecureMember {
  readonly #allow: AllowList;
  /** Numbers in an update. */
  readonly #length: number;
  readonly #seed: number;
  #aggregation: { readonly id: string; readonly client: SecAggClient } | null = null;

  /** @param seed the run's, for rounding alone: keys and masks are never drawn from it */
  constructor(allow: AllowList, length: number, seed: number) {
    this.#allow = allow;
    this.#length = length;
    this.#seed = seed;
  }

  /** Begins an aggregation, and forgets the one before. @throws ClientRefusal if it has begun already */
  keys({ aggregation: id, client: number }: Asked<'keys'>): { cipher: Uint8Array; mask: Uint8Array } {
    if (this.#aggregation?.id === id) throw new ClientRefusal(`it has given its keys of aggregation ${id} already`);
    const client = new SecAggClient(number, { id, length: this.#length });
    this.#aggregation = { id, client };
    const { cipher, mask } = client.keys();
    return { cipher, mask };
  }

  /** Shares of its secrets, sealed for its neighbours. @throws ClientRefusal where there are fewer than the allow-list wants */
  shares({ aggregation, neighbours, threshold, client }: Asked<'shares'>): Pick<SealedShares, 'to' | 'sealed'>[] {
    const { min_neighbours: least } = this.#allow;
    const others = new Set(neighbours.map((each) => each.client)).size;
    if (others !== neighbours.length || neighbours.some((each) => each.client === client))
      throw new ClientRefusal('the server names a neighbour twice, or this client as its own');
    if (others < least)
      throw new ClientRefusal(
        `there are ${others} others to share masks with, fewer than the ${least} that the allow-list wants (min_neighbours)`,
      );
    return this.#of(aggregation, (member) => member.share(neighbours, threshold)).map(({ to, sealed }) => ({
      to,
      sealed,
    }));
  }

  /**
   * What is done to an update before it is sent.
   * @throws ClientRefusal if it cannot or must not be sent; UnreadableShares naming neighbours whose shares cannot be read
   */
  masking(
    { round, client }: { readonly round: number; readonly client: number },
    { aggregation, shares, members, range, share, maxNorm }: Masking,
    update: Float32Array,
    norm: number,
  ): MaskJob {
    if (maxNorm !== null && norm > maxNorm)
      throw new ClientRefusal(`the norm of its update is ${norm.toPrecision(4)}, the bound ${maxNorm}`);
    const outside = outsideRange(update, range);
    if (outside !== null) throw new ClientRefusal(outside);
    const masks = this.#of(aggregation, (member) => {
      member.receive(shares.map(({ from, sealed }) => ({ from, to: client, sealed })));
      return member.masks();
    });
    const levels = { range, levels: levelsFor(members), share };
    return { update, rounding: { levels, key: roundingKeyOf(this.#seed, round, client) }, masks };
  }

  /** What takes masks off. @throws ClientRefusal where too few are left, or this client has sent nothing */
  unmask({ aggregation, survivors, client }: Asked<'unmask'>) {
    if (!survivors.includes(client))
      throw new ClientRefusal('its own vector is not in the sum: it gives no shares of others');
    return this.#of(aggregation, (member) => member.unmask(survivors)).shares.map(({ of, what, share }) => ({
      ...{ of, what },
      x: share.x,
      share: share.bytes,
    }));
  }

  #of<T>(id: string, use: (member: SecAggClient) => T): T {
    if (this.#aggregation?.id !== id)
      throw new ClientRefusal(`it has no keys of aggregation ${id}: it was restarted, or another one has begun`);
    try {
      return use(this.#aggregation.client);
    } catch (error) {
      if (error instanceof UnreadableShares) throw error;
      throw new ClientRefusal((error as Error).message, { cause: error });
    }
  }
}
