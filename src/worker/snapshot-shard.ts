import { join } from 'node:path';
import { float32, type HostTensor, writeSafetensors } from '../tensor/index.ts';
import type { ShardReport } from './protocol.ts';
import { type SnapshotShare, tensorBytes } from './snapshot-layout.ts';

/**
 * Writes the shard of a checkpoint from a snapshot's bytes: what its rank is the one to write of what it holds. Returns
 * no shard if that is nothing. The file is on the disk (fsync) when this resolves; the thread is never held up for more
 * than a few milliseconds at a time.
 * @throws SafetensorsError if it cannot be written, e.g. because the disk is full; nothing is left behind then
 */
export async function writeSnapshotShard(
  { shard, tensors }: Pick<SnapshotShare, 'shard' | 'tensors'>,
  bytes: Uint8Array,
  dir: string,
): Promise<ShardReport[]> {
  const written: Record<string, HostTensor> = {};
  for (const { name, shape, offset, writes } of tensors)
    if (writes) {
      const data = new Float32Array(bytes.buffer, bytes.byteOffset + offset, tensorBytes(shape) / 4);
      written[name] = float32(data, shape);
    }
  if (Object.keys(written).length === 0) return [];
  const { sha256 } = await writeSafetensors(join(dir, shard), written);
  return [{ file: shard, sha256, tensors: Object.keys(written) }];
}
