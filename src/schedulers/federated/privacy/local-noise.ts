import { createRng } from '../../../tensor/index.ts';

/** Adds a client's own noise of a standard deviation to its clipped update. */
export function addLocalNoise(
  update: Float32Array,
  deviation: number,
  keys: { readonly seed: number; readonly round: number; readonly client: number },
): void {
  const rng = createRng(keys.seed).fork('local privacy', keys.round, keys.client);
  const noise = rng.fillNormal(new Float32Array(update.length), 0, deviation);
  for (let i = 0; i < update.length; i++) update[i] = (update[i] as number) + (noise[i] as number);
}
