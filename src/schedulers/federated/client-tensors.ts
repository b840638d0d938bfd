import { float32, type LazyTensor } from '../../tensor/index.ts';
import type { ClientStore } from './client-store.ts';
import type { SavedTensors } from './saved-tensors.ts';

/** Names of a client's vectors among the tensors of a checkpoint. */
const PREFIX = 'client/';
const NAME = /^client\/(\d+)\/(.+)$/;

/**
 * What clients keep, as tensors of a checkpoint. Each vector is fetched from the store when its turn to be written has come, so that
 * not all that clients keep is in memory at once: the store must stay as it is until all are written.
 */
export function clientTensors(store: ClientStore): Readonly<Record<string, LazyTensor>> {
  const tensors: Record<string, LazyTensor> = {};
  for (const client of store.clients())
    for (const [name, length] of store.lengths(client))
      tensors[`${PREFIX}${client}/${name}`] = {
        dtype: 'float32',
        shape: [length],
        load: async () => float32(store.vector(client, name), [length]),
      };
  return tensors;
}

/** Puts what clients keep back into a store, one client after another. */
export async function readClientTensors(saved: SavedTensors, store: ClientStore): Promise<void> {
  const names = new Map<number, string[]>();
  for (const name of saved.names) {
    const match = NAME.exec(name);
    if (!match) continue;
    const client = Number(match[1]);
    const known = names.get(client);
    if (known) known.push(match[2] as string);
    else names.set(client, [match[2] as string]);
  }
  for (const [client, own] of names) {
    const vectors: Record<string, Float32Array> = {};
    for (const name of own) vectors[name] = (await saved.read(`${PREFIX}${client}/${name}`)).data as Float32Array;
    store.set(client, vectors);
  }
}
