/** A longer array that begins with what is in `old`. */
export function grown<T extends Uint8Array | Int32Array>(old: T, length: number): T {
  const larger = new (old.constructor as new (length: number) => T)(length);
  larger.set(old);
  return larger;
}
