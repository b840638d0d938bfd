import * as tf from '@tensorflow/tfjs-core';
import type * as tfl from '@tensorflow/tfjs-layers';

/**
 * Loads tfjs-layers, which Plexus does not depend on. @throws Error saying what to install.
 */
export async function loadTfjsLayers(): Promise<typeof tfl> {
  return importOptional(() => import('@tensorflow/tfjs-layers'), '@tensorflow/tfjs-layers');
}

/**
 * Runs `fn` with a tfjs backend that can hold values, which building a `LayersModel` needs; the engine's own backend is
 * put back afterwards. @throws Error saying what to install.
 */
export async function withHostBackend<T>(fn: () => Promise<T> | T): Promise<T> {
  await importOptional(() => import('@tensorflow/tfjs-backend-cpu'), '@tensorflow/tfjs-backend-cpu');
  const registry = tf.engine();
  const previous = registry.backendName;
  await tf.setBackend('cpu');
  try {
    return await fn();
  } finally {
    if (previous && previous !== 'cpu') await tf.setBackend(previous);
  }
}

async function importOptional<T>(load: () => Promise<T>, name: string): Promise<T> {
  try {
    const loaded = (await load()) as T & { default?: T };
    return loaded.default ?? loaded;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND')
      throw new Error(`wrapping a tfjs model needs the package ${name}; install it with: npm install ${name}`, {
        cause: error,
      });
    throw error;
  }
}
