import { createRng } from '../../../tensor/index.ts';

/** Adds a client's own noise of a standard deviation to its clipped update. */
export function addLocalNoise(
  update: Float32Array,
  deviation: number,
  keys: {
    readonly seed: number;
    readonly round: number;
    readonly client: number;
    /** What the server does not know; absent: it could take the noise away again. */
    readonly secret?: string;
  },
): void {
  const { seed, round, client, secret } = keys;
  const rng = createRng(seed).fork('local privacy', round, client, ...(secret === undefined ? [] : [secret]));
  const noise = rng.fillNormal(new Float32Array(update.length), 0, deviation);
  for (let i = 0; i < update.length; i++) update[i] = (update[i] as number) + (noise[i] as number);
}
