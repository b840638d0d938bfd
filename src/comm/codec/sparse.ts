import { CommProtocolError } from '../errors.ts';
import { readVarint, varintBytes, writeVarint } from './varint.ts';

/*
 * Values that are mostly zero: u32 count, the values that are not zero (float32), and for each the number of zeros
 * before it, as LEB128 (7 bits a byte, lowest first): 5.3 bytes a value when one in a hundred is kept. Where that would
 * be more than the plain values, the count is 2^32 - 1 and the plain values follow.
 *
 * What counts as zero is the bit pattern 0: -0 is kept, so every value comes back with the same bits.
 */
const PLAIN = 0xffffffff;

/** Bytes that `toSparse` writes. */
export function sparseBytes(values: Float32Array): number {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const plain = 4 + 4 * values.length;
  let bytes = 4;
  let before = -1;
  for (let i = 0; i < bits.length; i++) {
    if (bits[i] === 0) continue;
    bytes += 4 + varintBytes(i - before - 1);
    before = i;
    if (bytes >= plain) return plain;
  }
  return bytes;
}

/** Writes the values that are not zero. `out` is aligned to 4 bytes and holds `sparseBytes(values)`. */
export function toSparse(values: Float32Array, out: Uint8Array): void {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const words = (from: number, count: number) => new Int32Array(out.buffer, out.byteOffset + 4 * from, count);
  if (out.length === 4 + 4 * values.length) {
    words(0, 1)[0] = PLAIN;
    words(1, values.length).set(bits);
    return;
  }
  let count = 0;
  for (let i = 0; i < bits.length; i++) if (bits[i] !== 0) count += 1;
  words(0, 1)[0] = count;
  const kept = words(1, count);
  let at = 4 + 4 * count;
  let before = -1;
  for (let i = 0, n = 0; n < count; i++) {
    if (bits[i] === 0) continue;
    kept[n++] = bits[i] as number;
    at = writeVarint(i - before - 1, out, at);
    before = i;
  }
}

/** Fills `out` with zeros and the values that were kept. @throws CommProtocolError if the bytes make no sense */
export function fromSparse(bytes: Uint8Array, out: Float32Array): void {
  const bits = new Int32Array(out.buffer, out.byteOffset, out.length);
  if (bytes.length < 4) throw damaged(bytes, out);
  const count = new Uint32Array(bytes.buffer, bytes.byteOffset, 1)[0] as number;
  if (count === PLAIN) {
    if (bytes.length !== 4 + 4 * out.length) throw damaged(bytes, out);
    bits.set(new Int32Array(bytes.buffer, bytes.byteOffset + 4, out.length));
    return;
  }
  if (bytes.length < 4 + 5 * count) throw damaged(bytes, out);
  const kept = new Int32Array(bytes.buffer, bytes.byteOffset + 4, count);
  bits.fill(0);
  let at = 4 + 4 * count;
  let index = -1;
  for (let n = 0; n < count; n++) {
    const gap = readVarint(bytes, at);
    if (!gap) throw damaged(bytes, out);
    at = gap.next;
    index += gap.value + 1;
    if (index >= out.length) throw damaged(bytes, out);
    bits[index] = kept[n] as number;
  }
  if (at !== bytes.length) throw damaged(bytes, out);
}

function damaged(bytes: Uint8Array, out: Float32Array): CommProtocolError {
  return new CommProtocolError(`${bytes.length} bytes that came are not ${out.length} sparse values`);
}
