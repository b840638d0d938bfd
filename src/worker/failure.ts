import { CommClosed } from '../comm/index.ts';
import { NonFinite } from './non-finite.ts';
import { type Position, RunAborted } from './position.ts';
import type { FailureReport } from './protocol.ts';

/** What a failed worker reports: the error with its original stack, and where in the program and model it happened. */
export function failureReport(rank: number, error: unknown, position: Position): FailureReport {
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return {
    rank,
    path: pathOf(error),
    instruction: position.text,
    microbatch: error instanceof NonFinite && error.microbatch !== null ? error.microbatch : position.microbatch,
    step: position.step,
    name,
    message,
    stack: stackWithCauses(error) ?? stack ?? '',
    secondary: error instanceof CommClosed || error instanceof RunAborted,
  };
}

/** Module path that the error, or what caused it, names. */
function pathOf(error: unknown): string | null {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const { path } = at as { path?: unknown };
    if (typeof path === 'string' && path !== '') return path;
  }
  return null;
}

/** The stack of the original error first: that is where the user's own code is. */
function stackWithCauses(error: unknown): string | null {
  const stacks: string[] = [];
  for (let at: unknown = error; at instanceof Error; at = at.cause) if (at.stack) stacks.unshift(at.stack);
  return stacks.length > 0 ? stacks.join('\n  wrapped by ') : null;
}
