import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { type KeyAgreement, keyAgreement, newKeyPair } from './key-agreement.ts';
import { KEY_BYTES } from './keystream.ts';
import { addMasks, type Mask, maskKey } from './mask.ts';
import { SecAggError, UnreadableShares } from './secagg-error.ts';
import { type SecretShare, splitSecret } from './shamir.ts';

/** Public keys of a client for one aggregation: one to encrypt shares to it, one that masks come from. */
export interface PublicKeys {
  readonly client: number;
  readonly cipher: Uint8Array;
  readonly mask: Uint8Array;
}

/** Shares for one neighbour, which only it can read. */
export interface SealedShares {
  readonly from: number;
  readonly to: number;
  readonly sealed: Uint8Array;
}

/** What a client says to take masks off: of a survivor the share of its own mask's seed, of one that left that of its key. */
export interface Unmasking {
  readonly client: number;
  readonly shares: readonly { readonly of: number; readonly what: 'seed' | 'key'; readonly share: SecretShare }[];
}

/** What an aggregation is. */
export interface SecAggTerms {
  /** Told apart from all other aggregations, so that no mask is used twice. */
  readonly id: string;
  /** Numbers in a vector. */
  readonly length: number;
}

/** What two neighbours encrypt shares for each other with: a key for each direction, so that a nonce is never used twice with one. */
interface Channel {
  readonly to: Uint8Array;
  readonly from: Uint8Array;
}

/** What a neighbour has shared, and the key of the mask in common with it. */
interface Received {
  readonly seed: SecretShare;
  readonly key: SecretShare;
  readonly mask: Uint8Array;
}

/**
 * A client of a secure aggregation: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning (2017),
 * with a sparse graph of neighbours as in Bell, Bonawitz, Gascon, Lepoint and Raykova, Secure Single-Server Aggregation with
 * (Poly)Logarithmic Overhead (2020), known as SecAgg+. Its vector leaves it only under masks that cancel in the sum.
 */
export class SecAggClient {
  readonly client: number;
  readonly #terms: SecAggTerms;
  readonly #cipher = newKeyPair();
  readonly #mask = newKeyPair();
  /** Seed of the mask that only this client adds. */
  readonly #seed = randomBytes(32);
  readonly #neighbours = new Map<number, PublicKeys>();
  readonly #channels = new Map<number, Channel>();
  readonly #received = new Map<number, Received>();
  readonly #agree: KeyAgreement;
  /** Shares that are needed to put a secret together. */
  #threshold = 0;
  #masked = false;
  #unmasked = false;

  /** @param agree how two clients come to what both know; they must all have the same */
  constructor(client: number, terms: SecAggTerms, agree: KeyAgreement = keyAgreement) {
    this.client = client;
    this.#terms = terms;
    this.#agree = agree;
  }

  /** First step: the keys that everybody may know. */
  keys(): PublicKeys {
    return {
      client: this.client,
      cipher: this.#cipher.rawPublic,
      mask: this.#mask.rawPublic,
    };
  }

  /**
   * Second step: shares of this client's secrets for its neighbours, encrypted for each.
   * @param threshold shares that are needed to put a secret together
   * @throws SecAggError if there are too few neighbours for the threshold: a server must not be able to ask for that; Error if
   *   it has shared them before
   */
  share(neighbours: readonly PublicKeys[], threshold: number): SealedShares[] {
    if (this.#threshold > 0)
      throw new Error(`client ${this.client} has shared its secrets of aggregation ${this.#terms.id} already`);
    if (neighbours.length < threshold || threshold <= neighbours.length / 2)
      throw new SecAggError(
        `client ${this.client} was given ${neighbours.length} neighbours with a threshold of ${threshold}; it must be more than half of them, and no more`,
      );
    this.#threshold = threshold;
    for (const keys of neighbours) this.#neighbours.set(keys.client, keys);
    const seeds = splitSecret(this.#seed, neighbours.length, threshold);
    const keys = splitSecret(this.#mask.rawPrivate, neighbours.length, threshold);
    return neighbours.map((to, i) => {
      const [seed, key] = [seeds[i] as SecretShare, keys[i] as SecretShare];
      const plain = Buffer.concat([Uint8Array.of(seed.x), seed.bytes, key.bytes]);
      return { from: this.client, to: to.client, sealed: seal(this.#channelWith(to).to, plain) };
    });
  }

  /** Takes in what neighbours shared; those that are not among them have left. @throws UnreadableShares naming who shared what cannot be read */
  receive(shares: readonly SealedShares[]): void {
    const unreadable: number[] = [];
    for (const { from, sealed } of shares) {
      const keys = this.#neighbours.get(from);
      if (!keys) throw new Error(`client ${this.client} was given shares of ${from}, which is no neighbour of its`);
      const plain = unseal(this.#channelWith(keys).from, sealed);
      if (!plain) {
        unreadable.push(from);
        continue;
      }
      const x = plain[0] as number;
      this.#received.set(from, {
        seed: { x, bytes: plain.subarray(1, 33) },
        key: { x, bytes: plain.subarray(33, 65) },
        // (Now, while there is time: a simulation's clients still train.)
        mask: this.#agree(this.#mask, keys.mask, pairPurpose(this.#terms.id, this.client, from), KEY_BYTES),
      });
    }
    if (unreadable.length > 0) throw new UnreadableShares(unreadable);
  }

  /** Third step: the vector under this client's own mask and those that it has in common with neighbours. Once only. */
  mask(vector: Uint32Array): Uint32Array {
    const { length } = this.#terms;
    if (vector.length !== length)
      throw new RangeError(`client ${this.client} has ${vector.length} numbers to add up, others have ${length}`);
    const masked = vector.slice();
    addMasks(masked, this.masks());
    return masked;
  }

  /**
   * The masks of the third step by themselves, for adding them elsewhere. Once only: two vectors must not have the same.
   * @throws SecAggError if fewer neighbours than the threshold have shared their secrets; Error if it was asked before
   */
  masks(): Mask[] {
    const { id } = this.#terms;
    if (this.#received.size < Math.max(1, this.#threshold))
      throw new SecAggError(
        `client ${this.client} has the shares of ${this.#received.size} neighbours in aggregation ${id}, and needs ${this.#threshold}: its mask could not be taken off`,
      );
    if (this.#masked) throw new Error(`client ${this.client} has masked a vector in aggregation ${id} already`);
    this.#masked = true;
    const own: Mask = { key: maskKey(this.#seed, ownPurpose(id)), sign: 1 };
    const pairs = [...this.#received].map(
      ([other, { mask }]): Mask => ({ key: mask, sign: this.client < other ? 1 : -1 }),
    );
    return [own, ...pairs];
  }

  /**
   * Last step: what takes the masks off. Of each neighbour it gives one of its two shares, never both; the server, which asks
   * once, cannot learn a single client's vector.
   * @throws SecAggError if too few of its neighbours survived; Error if it was asked before
   */
  unmask(survivors: readonly number[]): Unmasking {
    const { id } = this.#terms;
    const threshold = this.#threshold;
    if (this.#unmasked) throw new Error(`client ${this.client} has helped to unmask aggregation ${id} already`);
    const left = survivors.filter((other) => this.#received.has(other)).length;
    if (left < threshold)
      throw new SecAggError(
        `only ${left} of the ${this.#received.size} neighbours of client ${this.client} are left in aggregation ${id}, and it needs ${threshold}: it gives no shares`,
      );
    this.#unmasked = true;
    const alive = new Set(survivors);
    return {
      client: this.client,
      shares: [...this.#received].map(([of, { seed, key }]) =>
        alive.has(of) ? { of, what: 'seed', share: seed } : { of, what: 'key', share: key },
      ),
    };
  }

  #channelWith(other: PublicKeys): Channel {
    const known = this.#channels.get(other.client);
    if (known) return known;
    const keys = this.#agree(this.#cipher, other.cipher, `plexus shares ${this.#terms.id}`, 64);
    const [up, down] = [keys.subarray(0, 32), keys.subarray(32)];
    const channel = this.client < other.client ? { to: up, from: down } : { to: down, from: up };
    this.#channels.set(other.client, channel);
    return channel;
  }
}

/** What the mask is for that only its client adds. */
export const ownPurpose = (id: string) => `${id} own`;

/** What the key agreement is for that gives the mask which two neighbours have in common. */
export const pairPurpose = (id: string, a: number, b: number) =>
  `plexus mask ${id} pair ${Math.min(a, b)} ${Math.max(a, b)}`;

function seal(key: Uint8Array, plain: Uint8Array): Uint8Array {
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  const text = Buffer.concat([cipher.update(plain), cipher.final()]);
  return new Uint8Array(Buffer.concat([nonce, text, cipher.getAuthTag()]));
}

/** What was sealed under a key: two shares and where they lie; null if it was changed on its way, or is no such thing. */
function unseal(key: Uint8Array, sealed: Uint8Array): Uint8Array | null {
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12));
    decipher.setAuthTag(sealed.subarray(-16));
    const plain = new Uint8Array(Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]));
    return plain.length === 65 && plain[0] !== 0 ? plain : null;
  } catch {
    return null;
  }
}
