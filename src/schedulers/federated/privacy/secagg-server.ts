import { addIntegers } from '../../../comm/index.ts';
import { permutation, type Rng } from '../../../tensor/index.ts';
import { keyAgreement, keyPair } from './key-agreement.ts';
import { KEY_BYTES } from './keystream.ts';
import { addMasks, asSigned, type Mask, maskKey } from './mask.ts';
import {
  ownPurpose,
  type PublicKeys,
  pairPurpose,
  type SealedShares,
  type SecAggTerms,
  type Unmasking,
} from './secagg-client.ts';
import { SecAggError } from './secagg-error.ts';
import { joinSecret, type SecretShare } from './shamir.ts';

/**
 * The graph of an aggregation: every client has the same number of neighbours, the nearest on a ring in random order (a Harary
 * graph, Bell et al. 2020, section 3.1). With `neighbours` of all others it is the complete graph of Bonawitz et al. (2017).
 */
export function secAggGraph(
  clients: readonly number[],
  neighbours: number,
  rng: Rng,
): ReadonlyMap<number, readonly number[]> {
  const n = clients.length;
  const degree = Math.min(n - 1, neighbours + (neighbours % 2));
  const ring = [...permutation(n, rng)].map((i) => clients[i] as number);
  const hops = Array.from({ length: Math.ceil(degree / 2) }, (_, i) => i + 1);
  return new Map(
    ring.map((client, at) => {
      const others = new Set(hops.flatMap((hop) => [ring[(at + hop) % n], ring[(at - hop + n) % n]] as number[]));
      others.delete(client);
      return [client, [...others].sort((a, b) => a - b)];
    }),
  );
}

/**
 * Neighbours' shares that are needed: the smallest majority. More than half, so that a server cannot tell one half that a client
 * survived and the other that it left; no more, so that nearly half of a client's neighbours may leave.
 */
export function secAggThreshold(neighbours: number): number {
  return Math.floor(neighbours / 2) + 1;
}

/** A share of a secret, and who gave it. */
export interface GivenShares {
  readonly by: number;
  readonly share: SecretShare;
}

/**
 * The server of a secure aggregation. It adds masked vectors up as they come and takes the masks off the sum in the end; what it sees
 * of a single client is noise.
 */
export class SecAggServer {
  readonly #terms: SecAggTerms;
  readonly #threshold: number;
  readonly #graph: ReadonlyMap<number, readonly number[]>;
  readonly #keys = new Map<number, PublicKeys>();
  readonly #shared = new Map<number, readonly SealedShares[]>();
  readonly #survivors = new Set<number>();
  readonly #sum: Uint32Array;

  constructor(terms: SecAggTerms, graph: ReadonlyMap<number, readonly number[]>) {
    this.#terms = terms;
    this.#graph = graph;
    const [first] = graph.values();
    this.#threshold = secAggThreshold(first?.length ?? 0);
    this.#sum = new Uint32Array(terms.length);
  }

  /** Shares that are needed to put a secret together. */
  get threshold(): number {
    return this.#threshold;
  }

  /** Takes in a client's public keys. */
  addKeys(keys: PublicKeys): void {
    this.#member(keys.client);
    this.#keys.set(keys.client, keys);
  }

  /** Keys of a client's neighbours that have said theirs. */
  neighboursOf(client: number): PublicKeys[] {
    return this.#member(client).flatMap((other) => this.#keys.get(other) ?? []);
  }

  /** Takes in the shares that a client made. */
  addShares(from: number, shares: readonly SealedShares[]): void {
    this.#member(from);
    this.#shared.set(from, shares);
  }

  /** Shares that a client's neighbours made for it. */
  sharesFor(client: number): SealedShares[] {
    return [...this.#shared.values()].flatMap((shares) => shares.filter(({ to }) => to === client));
  }

  /** Adds a client's masked vector to the sum. @throws RangeError on another length, or a second one */
  addMasked(client: number, vector: Uint32Array): void {
    this.addAllMasked([{ client, vector }]);
  }

  /** Adds several at once, which takes less time than one by one. @throws as `addMasked`, before any is added */
  addAllMasked(arrived: readonly { readonly client: number; readonly vector: Uint32Array }[]): void {
    const come = new Set(this.#survivors);
    for (const { client, vector } of arrived) {
      this.#member(client);
      if (vector.length !== this.#terms.length)
        throw new RangeError(`client ${client} sent ${vector.length} numbers, expected ${this.#terms.length}`);
      if (come.has(client)) throw new RangeError(`client ${client} sent its vector twice`);
      come.add(client);
    }
    for (const client of come) this.#survivors.add(client);
    const signed = arrived.map(({ vector }) => asSigned(vector));
    addIntegers(asSigned(this.#sum), signed, []);
  }

  /** Clients whose vectors are in the sum. */
  survivors(): number[] {
    return [...this.#survivors].sort((a, b) => a - b);
  }

  /**
   * Takes the masks off: of each survivor its own one, and of each client that left after it had shared its keys those that its
   * neighbours have in common with it.
   * @throws SecAggError naming a client of whose secret too few shares came
   */
  finish(answers: readonly Unmasking[]): Uint32Array {
    const { id } = this.#terms;
    const threshold = this.#threshold;
    const shares = sharesOf(answers);
    const secretOf = (what: 'seed' | 'key', client: number): Uint8Array => {
      const found = shares.get(`${what} ${client}`) ?? [];
      if (found.length < threshold)
        throw new SecAggError(
          `only ${found.length} of ${threshold} shares of the ${what} of client ${client} came: too many clients left the aggregation; ` +
            'ask for more neighbours, or more clients',
        );
      return joinSecret(found.slice(0, threshold).map(({ share }) => share));
    };
    const masks = [...this.#survivors].map(
      (client): Mask => ({ key: maskKey(secretOf('seed', client), ownPurpose(id)), sign: -1 }),
    );
    for (const [gone, mates] of this.#gone()) {
      const pair = keyPair(secretOf('key', gone), (this.#keys.get(gone) as PublicKeys).mask);
      for (const other of mates) {
        const known = (this.#keys.get(other) as PublicKeys).mask;
        const key = keyAgreement(pair, known, pairPurpose(id, gone, other), KEY_BYTES);
        // What the survivor added is taken away.
        masks.push({ key, sign: other < gone ? -1 : 1 });
      }
    }
    const result = this.#sum.slice();
    addMasks(result, masks);
    return result;
  }

  /** Whether these answers are enough to take the masks off: those that are still to come may be missing. */
  complete(answers: readonly Unmasking[]): boolean {
    const shares = sharesOf(answers);
    const there = (what: 'seed' | 'key', client: number) =>
      (shares.get(`${what} ${client}`)?.length ?? 0) >= this.#threshold;
    return (
      [...this.#survivors].every((client) => there('seed', client)) &&
      this.#gone().every(([gone]) => there('key', gone))
    );
  }

  /** Clients that left after they had shared their secrets, each with those of its neighbours that survived, if there are any. */
  #gone(): [client: number, mates: number[]][] {
    return [...this.#shared.keys()]
      .filter((client) => !this.#survivors.has(client))
      .map((client): [number, number[]] => [client, this.#member(client).filter((mate) => this.#survivors.has(mate))])
      .filter(([, mates]) => mates.length > 0);
  }

  #member(client: number): readonly number[] {
    const neighbours = this.#graph.get(client);
    if (!neighbours) throw new RangeError(`client ${client} is not part of aggregation ${this.#terms.id}`);
    return neighbours;
  }
}

/** Shares by what they are of; two that lie at the same place are one. */
export function sharesOf(answers: readonly Unmasking[]): ReadonlyMap<string, readonly GivenShares[]> {
  const shares = new Map<string, GivenShares[]>();
  for (const answer of answers)
    for (const { of, what, share } of answer.shares) {
      const key = `${what} ${of}`;
      const given = { by: answer.client, share };
      const known = shares.get(key);
      if (!known) shares.set(key, [given]);
      else if (!known.some(({ share: { x } }) => x === share.x)) known.push(given);
    }
  return shares;
}
