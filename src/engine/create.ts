import type { Engine, EngineOptions } from './engine.ts';
import { createOnnxEngine } from './onnx/index.ts';
import { createTfjsEngine } from './tfjs/index.ts';

/**
 * Makes the engine that the config's `engine` section asks for.
 * @throws EngineError if the device is not available, naming what to install.
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  return options.kind === 'tfjs' ? createTfjsEngine(options) : createOnnxEngine(options);
}
