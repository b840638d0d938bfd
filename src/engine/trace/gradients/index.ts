import { tf } from '../tf.ts';
import { contractions } from './contractions.ts';
import { elementwise } from './elementwise.ts';
import { images } from './images.ts';
import { indexing } from './indexing.ts';
import { layout } from './layout.ts';
import { reductions } from './reductions.ts';

// Gradients that replace tfjs's own while a trace is recorded: because tfjs has none (top-k, gather-nd, strided slices,
// einsum, dilated convolutions), because its own is wrong off the beaten track (splitting in one, broadcasting squared
// difference, minimum and matmul, cumulative sums along inner axes, mirrored padding, resizing with half-pixel centres),
// or because it makes a graph that is needlessly large (sums and means multiplied by a tensor of ones).

const replacements = [...reductions, ...elementwise, ...layout, ...indexing, ...contractions, ...images];

/** Runs `fn` with these gradients registered, and puts tfjs's own back. */
export function withTraceGradients<T>(fn: () => T): T {
  const previous = replacements.map(({ kernelName }) => tf.getGradient(kernelName));
  for (const config of replacements) tf.registerGradient(config);
  try {
    return fn();
  } finally {
    replacements.forEach(({ kernelName }, i) => {
      const config = previous[i];
      if (config) tf.registerGradient(config);
      else tf.unregisterGradient(kernelName);
    });
  }
}
