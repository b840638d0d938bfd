import type { HostTensor } from '../../tensor/index.ts';

/** Arrays one behind the other. */
export function concat(arrays: readonly Int32Array[]): Int32Array {
  const out = new Int32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

/** Plain data as a tensor, for checkpoints. Numbers keep all of their digits. */
export function jsonTensor(value: unknown): HostTensor {
  const data = new TextEncoder().encode(JSON.stringify(value));
  return { dtype: 'uint8', shape: [data.length], data };
}

/** What `jsonTensor` was given. */
export function jsonOf(tensor: HostTensor): unknown {
  return JSON.parse(new TextDecoder().decode(tensor.data as Uint8Array));
}
