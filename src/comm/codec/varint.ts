/** Bytes of a number below 2^53 as LEB128: 7 bits a byte, lowest first. */
export function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) bytes += 1;
  return bytes;
}

/** Writes a number at a place and returns the place after it. */
export function writeVarint(value: number, out: Uint8Array, at: number): number {
  let next = at;
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) out[next++] = (rest & 127) | 128;
  out[next++] = rest;
  return next;
}

/** Reads a number below 2^42 and the place after it; null if the bytes end before it, or it is larger. */
export function readVarint(bytes: Uint8Array, at: number): { readonly value: number; readonly next: number } | null {
  let next = at;
  let value = 0;
  for (let scale = 1; ; scale *= 128) {
    const byte = bytes[next++];
    if (byte === undefined || scale > 2 ** 35) return null;
    value += (byte & 127) * scale;
    if (byte < 128) return { value, next };
  }
}
