import { EngineError, placeName } from '../errors.ts';

let path = '';

/** Path of the module being traced; '' outside of any. */
export function currentPath(): string {
  return path;
}

/**
 * Runs `fn` with `modulePath` recorded on every node traced inside; nested calls replace the path, they do not append.
 * An error that is not an EngineError yet (tfjs's own shape checks, a mistake in a user's module) is wrapped in one that
 * names the innermost module.
 */
export function withPath<T>(modulePath: string, fn: () => T): T {
  const outer = path;
  path = modulePath;
  try {
    return fn();
  } catch (error) {
    if (error instanceof EngineError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError(`${placeName(modulePath)}: ${reason}`, { path: modulePath, cause: error });
  } finally {
    path = outer;
  }
}
