import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { HostTensor, TypedArray } from './host-tensor.ts';
import { type FlatTree, pathsInOrder } from './tree.ts';

/** The bytes of a typed array as stored (little-endian on every platform that Node and Deno run on), without a copy. */
export function bytesOf(data: TypedArray): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * SHA-256, as lower-case hex, of tensors' raw little-endian data one after another in `pathsInOrder` order. Of a model's
 * float32 parameters it is the run's `weights_sha256`: equal hashes mean equal bits of every weight.
 */
export function sha256Of(tensors: FlatTree<HostTensor>): string {
  const hash = createHash('sha256');
  for (const path of pathsInOrder(Object.keys(tensors))) hash.update(bytesOf((tensors[path] as HostTensor).data));
  return hash.digest('hex');
}

/** SHA-256 of a file's content, as lower-case hex, read as a stream. */
export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}
