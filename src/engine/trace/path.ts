import { joinPath } from '../../tensor/index.ts';
import { EngineError, placeName } from '../errors.ts';

let prefix = '';
let path = '';

/** Path of the module being traced, relative to the traced function; '' outside of any. */
export function currentPath(): string {
  return path;
}

/** A path as messages write it: with the name of the traced function before it. */
export function fullPath(relative: string = path): string {
  return joinPath(prefix, relative);
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
    return named(fn);
  } finally {
    path = outer;
  }
}

/** Runs `fn` as the traced function `name`, outside of any module. */
export function withFunctionName<T>(name: string, fn: () => T): T {
  const outer = { prefix, path };
  prefix = name;
  path = '';
  try {
    return named(fn);
  } finally {
    ({ prefix, path } = outer);
  }
}

function named<T>(fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    if (error instanceof EngineError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError(`${placeName(fullPath())}: ${reason}`, { path: fullPath(), cause: error });
  }
}
