import { createHash, type Hash } from 'node:crypto';
import type { PreparedData } from './dataset.ts';

/** Keys that say where the data was found: two machines may keep the same file in different places. */
const PLACES: ReadonlySet<string> = new Set(['source']);

/**
 * SHA-256, as lower-case hex, of prepared data: equal on two machines if and only if every example that they would train
 * on is equal (tokens, pixels, features, tokenizer, splits). Where the files lie does not count.
 */
export function preparedDigest(data: PreparedData): string {
  const hash = createHash('sha256');
  add(hash, data);
  return hash.digest('hex');
}

/** Each value is preceded by its kind and size, so that no two different trees read the same. */
function add(hash: Hash, value: unknown): void {
  if (value instanceof SharedArrayBuffer || value instanceof ArrayBuffer) {
    hash.update(`bytes ${value.byteLength}\n`);
    hash.update(new Uint8Array(value));
  } else if (ArrayBuffer.isView(value)) {
    hash.update(`view ${value.byteLength}\n`);
    hash.update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  } else if (Array.isArray(value)) {
    hash.update(`list ${value.length}\n`);
    for (const item of value) add(hash, item);
  } else if (value !== null && typeof value === 'object') {
    const entries = Object.entries(value)
      .filter(([key, entry]) => entry !== undefined && !PLACES.has(key))
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    hash.update(`object ${entries.length}\n`);
    for (const [key, entry] of entries) {
      hash.update(`${JSON.stringify(key)}\n`);
      add(hash, entry);
    }
  } else {
    const text = Object.is(value, -0) ? '-0' : String(value);
    hash.update(`${typeof value} ${text.length} ${text}\n`);
  }
}
