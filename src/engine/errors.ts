/**
 * Raised for anything the engine refuses: an op without a lowering, a read of a traced value, inputs that do not fit a
 * compiled function, a device that is not there. The message names the module path, the kernel and the shapes.
 */
export class EngineError extends Error {
  override readonly name: string = 'EngineError';
}
