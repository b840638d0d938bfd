// The one place where the engine loads tfjs. Order matters: tfjs-core makes the thread's tfjs engine, and the bundle of
// gradients and chained methods then registers itself with it.
import * as tf from '@tensorflow/tfjs-core';

// tfjs prints an advertisement for tfjs-node on the first use of a JavaScript backend, and a warning for every kernel
// registered twice. Its PROD flag does nothing but silence these.
tf.env().set('PROD', true);

await import(new URL('../../../vendor/tfjs-gradients.mjs', import.meta.url).href);

export { tf };
