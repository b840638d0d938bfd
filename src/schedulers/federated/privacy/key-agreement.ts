import { createPrivateKey, createPublicKey, diffieHellman, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';

/** A key pair of X25519 (RFC 7748); public and private keys travel as their raw 32 bytes. */
export interface KeyPair {
  readonly rawPublic: Uint8Array;
  readonly rawPrivate: Uint8Array;
  readonly privateKey: KeyObject;
}

/**
 * What one's own key pair and another's public key come to, for a purpose: both sides get the same bytes, other purposes unrelated ones.
 */
export type KeyAgreement = (own: KeyPair, other: Uint8Array, purpose: string, bytes: number) => Uint8Array;

/** X25519, and HKDF (RFC 5869) of what it gives. */
export const keyAgreement: KeyAgreement = (own, other, purpose, bytes) => {
  const shared = diffieHellman({ privateKey: own.privateKey, publicKey: publicKey(other) });
  return new Uint8Array(hkdfSync('sha256', shared, new Uint8Array(0), purpose, bytes));
};

/** `keyAgreement` for a process in which both sides are: whoever is second gets what the first has come to. */
export function rememberedKeyAgreement(): KeyAgreement {
  const known = new Map<string, Uint8Array>();
  return (own, other, purpose, bytes) => {
    const names = [own.rawPublic, other].map((key) => Buffer.from(key).toString('latin1')).sort();
    const name = `${names.join('')} ${purpose}`;
    const found = known.get(name);
    if (found) {
      known.delete(name);
      return found;
    }
    const made = keyAgreement(own, other, purpose, bytes);
    known.set(name, made);
    return made;
  };
}

// Node takes raw keys only inside a JWK (RFC 8037) or in DER, which OpenSSL takes twenty times as long to read.
const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url');
const jwk = (raw: Uint8Array) => ({ kty: 'OKP', crv: 'X25519', x: base64url(raw) });

/** Public keys that have been read. */
const read = new WeakMap<Uint8Array, KeyObject>();

function publicKey(raw: Uint8Array): KeyObject {
  const found = read.get(raw) ?? createPublicKey({ key: jwk(raw), format: 'jwk' });
  read.set(raw, found);
  return found;
}

/** The point whose u-coordinate is 9. */
const BASE = Uint8Array.from({ length: 32 }, (_, i) => (i === 0 ? 9 : 0));

/**
 * A new pair of keys. Not by `generateKeyPair`, which takes three times as long to write both; and exporting a key that it has made can
 * lock a thread of Node 20 for ever (it takes a lock that the job which made the key takes again if it is collected in between).
 */
export function newKeyPair(): KeyPair {
  return keyPairOf(new Uint8Array(randomBytes(32)));
}

/** The pair of a private key: the public one is its agreement with the base point (RFC 7748, section 6.1). */
export function keyPairOf(rawPrivate: Uint8Array): KeyPair {
  // (What is said of the public key is not looked at.)
  const key = privateKey(rawPrivate, BASE);
  const rawPublic = new Uint8Array(diffieHellman({ privateKey: key, publicKey: publicKey(BASE) }));
  return { rawPublic, rawPrivate, privateKey: key };
}

/**
 * Whether it is a public key that agreements can be made with. With a point of small order (RFC 7748, section 6.1) everything agrees on
 * zero, which anybody knows, and OpenSSL refuses.
 */
export function isPublicKey(raw: Uint8Array): boolean {
  try {
    keyAgreement(newKeyPair(), raw, 'a try', 1);
    return true;
  } catch {
    return false;
  }
}

/** A key pair whose public key is known. */
export function keyPair(rawPrivate: Uint8Array, rawPublic: Uint8Array): KeyPair {
  return { rawPublic, rawPrivate, privateKey: privateKey(rawPrivate, rawPublic) };
}

function privateKey(raw: Uint8Array, itsPublic: Uint8Array): KeyObject {
  return createPrivateKey({ key: { ...jwk(itsPublic), d: base64url(raw) }, format: 'jwk' });
}
