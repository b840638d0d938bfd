import type { Engine, EngineOptions } from './engine.ts';
import { EngineError } from './errors.ts';
import { createOnnxEngine } from './onnx/index.ts';

/**
 * Makes the engine that the config's `engine` section asks for.
 * @throws EngineError if the device is not available, naming what to install.
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  if (options.kind === 'onnx') return createOnnxEngine(options);
  throw new EngineError(`engine.kind is "${options.kind}", expected onnx`);
}
