import * as tf from '@tensorflow/tfjs-core';
import { loadTfjsLayers } from './tfjs-runtime.ts';

/** Key in the global symbol registry under which bundled model files find this thread's modules. */
export const INSTANCE_SYMBOL = 'plexus.instance';

/** What a model file may import from the running thread. */
export const INSTANCE_MODULES: readonly string[] = [
  'plexus',
  'plexus/modules',
  'plexus/engine',
  'plexus/tensor',
  '@tensorflow/tfjs-core',
  '@tensorflow/tfjs-layers',
  '@tensorflow/tfjs',
];

/** Publishes this thread's modules to bundled files. Idempotent. */
export async function publishInstance(usesLayers: boolean): Promise<void> {
  const [tensor, engine, modules] = await Promise.all([
    import('../../tensor/index.ts'),
    import('../../engine/index.ts'),
    import('../index.ts'),
  ]);
  const layers = usesLayers ? await loadTfjsLayers() : {};
  const instances: Readonly<Record<string, object>> = {
    plexus: { ...tensor, ...engine, ...modules },
    'plexus/modules': modules,
    'plexus/engine': engine,
    'plexus/tensor': tensor,
    '@tensorflow/tfjs-core': tf,
    '@tensorflow/tfjs-layers': layers,
    '@tensorflow/tfjs': { ...tf, ...layers },
  };
  Object.assign(globalThis, { [Symbol.for(INSTANCE_SYMBOL)]: (name: string) => instances[name] });
}
