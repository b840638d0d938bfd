import { randomBytes } from 'node:crypto';

/** One party's share of a secret: where it is evaluated (1 to 255), and a byte for each byte of the secret. */
export interface SecretShare {
  readonly x: number;
  readonly bytes: Uint8Array;
}

// Arithmetic of GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1 by tables of powers of the generator 3.
const EXP = new Uint8Array(510);
const LOG = new Uint8Array(256);
for (let i = 0, value = 1; i < 255; i++) {
  EXP[i] = value;
  EXP[i + 255] = value;
  LOG[value] = i;
  const doubled = (value << 1) ^ (value & 0x80 ? 0x11b : 0);
  value = doubled ^ value;
}

function multiply(a: number, b: number): number {
  return a === 0 || b === 0 ? 0 : (EXP[(LOG[a] as number) + (LOG[b] as number)] as number);
}

function divide(a: number, b: number): number {
  return a === 0 ? 0 : (EXP[(LOG[a] as number) + 255 - (LOG[b] as number)] as number);
}

/**
 * Splits a secret so that any `threshold` shares give it back and fewer say nothing about it: Shamir, How to Share a Secret
 * (1979), over GF(2^8), byte by byte.
 * @throws RangeError unless 1 <= threshold <= shares <= 255
 */
export function splitSecret(secret: Uint8Array, shares: number, threshold: number): SecretShare[] {
  if (!(Number.isInteger(threshold) && threshold >= 1 && threshold <= shares && shares <= 255))
    throw new RangeError(
      `a secret cannot be split into ${shares} shares of which ${threshold} are needed (at most 255)`,
    );
  // Coefficient by coefficient: the secret is the constant one.
  const coefficients = [secret, ...Array.from({ length: threshold - 1 }, () => randomBytes(secret.length))];
  return Array.from({ length: shares }, (_, i) => {
    const x = i + 1;
    const bytes = new Uint8Array(secret.length);
    for (let at = 0; at < bytes.length; at++) {
      let value = 0;
      for (let c = coefficients.length - 1; c >= 0; c--)
        value = multiply(value, x) ^ ((coefficients[c] as Uint8Array)[at] as number);
      bytes[at] = value;
    }
    return { x, bytes };
  });
}

/** Puts a secret together from `threshold` or more of its shares. @throws RangeError on none, or two at the same place */
export function joinSecret(shares: readonly SecretShare[]): Uint8Array {
  const places = shares.map(({ x }) => x);
  if (shares.length === 0 || new Set(places).size !== places.length)
    throw new RangeError(`a secret cannot be put together from shares at ${places.join(', ') || 'no places'}`);
  return valueAt(0, shares);
}

/**
 * Whether shares, at different places, are of one secret that takes `threshold` of them: all lie on one polynomial of that many
 * coefficients. So many or fewer always are.
 */
export function sharesAgree(shares: readonly SecretShare[], threshold: number): boolean {
  const first = shares.slice(0, threshold);
  return shares.slice(threshold).every(({ x, bytes }) => {
    const expected = valueAt(x, first);
    return expected.length === bytes.length && expected.every((value, i) => value === bytes[i]);
  });
}

/** The polynomial through shares at a place: Lagrange's formula. */
function valueAt(place: number, shares: readonly SecretShare[]): Uint8Array {
  const value = new Uint8Array(shares[0]?.bytes.length ?? 0);
  for (const { x, bytes } of shares) {
    // The basis polynomial of this share; subtraction is exclusive or.
    let basis = 1;
    for (const other of shares) if (other.x !== x) basis = multiply(basis, divide(other.x ^ place, other.x ^ x));
    for (let at = 0; at < value.length; at++) value[at] = (value[at] as number) ^ multiply(bytes[at] as number, basis);
  }
  return value;
}
