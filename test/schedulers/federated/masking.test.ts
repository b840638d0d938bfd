import { hkdfSync } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addMasks,
  CHUNK,
  createRng,
  isPublicKey,
  keyAgreement,
  keyPair,
  keyPairOf,
  keystream,
  type Mask,
  type MaskJob,
  maskedIn,
  maskKey,
  maskOf,
  maskUpdates,
  newKeyPair,
  quantise,
  rememberedKeyAgreement,
  roundingKey,
} from '../../../src/index.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));

describe('key agreement', () => {
  // RFC 7748, section 6.1.
  const alice = keyPairOf(bytes('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'));
  const bob = keyPairOf(bytes('5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb'));
  const secret = bytes('4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742');

  it('is X25519 and HKDF', () => {
    expect(alice.rawPublic).toEqual(bytes('8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a'));
    expect(bob.rawPublic).toEqual(bytes('de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f'));
    const expected = new Uint8Array(hkdfSync('sha256', secret, new Uint8Array(0), 'a test', 48));
    expect(keyAgreement(alice, bob.rawPublic, 'a test', 48)).toEqual(expected);
    expect(keyAgreement(bob, alice.rawPublic, 'a test', 48)).toEqual(expected);
    expect([alice.rawPublic, bob.rawPublic, new Uint8Array(32)].map(isPublicKey)).toEqual([true, true, false]);
    // As a server has it that was given the private key.
    const again = keyPair(alice.rawPrivate, alice.rawPublic);
    expect(keyAgreement(again, bob.rawPublic, 'a test', 48)).toEqual(expected);
  });

  it('comes to the same where both sides are in one process, and to another for everything else', () => {
    const agree = rememberedKeyAgreement();
    const carol = newKeyPair();
    const made = new Set<string>();
    for (const purpose of ['a', 'b'])
      for (const [one, other] of [
        [alice, bob],
        [alice, carol],
        [carol, bob],
      ] as const) {
        const expected = keyAgreement(one, other.rawPublic, purpose, 32);
        expect(agree(one, other.rawPublic, purpose, 32)).toEqual(expected);
        expect(agree(other, one.rawPublic, purpose, 32)).toEqual(expected);
        made.add(Buffer.from(expected).toString('hex'));
      }
    expect(made.size).toBe(6);
    expect(newKeyPair().rawPrivate).not.toEqual(carol.rawPrivate);
  });
});

describe('keystreams', () => {
  it('are AES-128 in counter mode', () => {
    // NIST SP 800-38A, F.5.1: key and first counter, and the four output blocks.
    const stream = keystream(bytes('2b7e151628aed2a6abf7158809cf4f3cf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff'));
    expect(Buffer.from(stream(16).buffer).toString('hex').match(/.{32}/g)).toEqual([
      'ec8cdf7398607cb0f2d21675ea9ea1e4',
      '362b7c3c6773516318a077d7fc5073ae',
      '6a2cc3787889374fbeb4c81b17ba6c44',
      'e89c399ff0f198c6d40a31db156cabfe',
    ]);
  });

  it('do not depend on where they begin, or on the pieces that they are taken in', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 70_000 }), fc.nat(200), fc.boolean(), (block, count, last) => {
        // The counter of the last few blocks before it begins anew, too.
        const key = new Uint8Array(32).fill(last ? 255 : 3);
        const whole = keystream(key);
        for (let left = 4 * block; left > 0; left -= CHUNK) whole(Math.min(left, CHUNK));
        expect(keystream(key, 4 * block)(count)).toEqual(whole(count));
      }),
      { seed: 2, numRuns: 60 },
    );
  });
});

describe('masking updates', () => {
  it('of many clients in parts is masking each one by itself', () => {
    const property = fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 2 * CHUNK + 50 }),
      fc.integer({ min: 1, max: 3 }),
      fc.nat(1000),
      (clients, length, parts, seed) => {
        const rng = createRng(seed);
        const key = (name: string) => maskKey(new Uint8Array(32).fill(seed), name);
        const jobs = Array.from({ length: clients }, (_, client): MaskJob => {
          const others = Array.from({ length: clients }, (_, other) => other).filter((other) => other !== client);
          // Masks in common with others, of which one may have left; and one of its own.
          const masks = [...others, clients].map(
            (other): Mask => ({
              key: key(`pair ${Math.min(client, other)} ${Math.max(client, other)}`),
              sign: client < other ? 1 : -1,
            }),
          );
          return {
            update: rng.fillNormal(new Float32Array(length), 0, 2),
            rounding: { levels: { range: 4, levels: 1000, share: 0.5 }, key: roundingKey(rng) },
            masks: [{ key: key(`own ${client}`), sign: 1 }, ...masks],
          };
        });
        const alone = jobs.map(({ update, rounding, masks }) => {
          const vector = quantise(update, rounding.levels, keystream(rounding.key));
          addMasks(vector, masks);
          return vector;
        });
        const part = CHUNK * Math.ceil(length / CHUNK / parts);
        for (let from = 0; from < length; from += part) maskUpdates(jobs, from, Math.min(from + part, length));
        jobs.forEach(({ update }, client) => {
          expect(
            Buffer.compare(Buffer.from(maskedIn(update).buffer), Buffer.from((alone[client] as Uint32Array).buffer)),
          ).toBe(0);
        });
      },
    );
    fc.assert(property, { seed: 3, numRuns: 30 });
    maskUpdates([]);
  });

  it('hides a vector under the words of its masks', () => {
    const key = maskKey(new Uint8Array(32), 'a');
    const vector = new Uint32Array(100).fill(7);
    addMasks(vector, [{ key, sign: -1 }]);
    const words = maskOf(key, 100);
    expect(vector.map((value, i) => value + (words[i] as number))).toEqual(new Uint32Array(100).fill(7));
  });
});
