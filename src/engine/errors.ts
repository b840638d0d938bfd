/**
 * What goes wrong in tracing, compiling or running: the message names the module path, the kernel or input, the shapes,
 * and what to do about it.
 */
export class EngineError extends Error {
  override readonly name: string = 'EngineError';
  /** Path of the module concerned, or '' if none is. */
  readonly path: string;

  constructor(message: string, options: { readonly path?: string; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.path = options.path ?? '';
  }
}

/** `module "a.b"`, or `the traced function` outside of any module: how error messages name a place. */
export function placeName(path: string): string {
  return path === '' ? 'the traced function' : `module "${path}"`;
}

/** `float32 [2,3]`: how error messages write a signature. */
export function signatureText(signature: { readonly dtype: string; readonly shape: readonly number[] }): string {
  return `${signature.dtype} [${signature.shape.join(',')}]`;
}
