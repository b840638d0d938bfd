import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/transport-node';

/** How long a call is repeated. */
export interface RetryOptions {
  /** No call is begun later than this many milliseconds after the first. */
  readonly deadlineMs: number;
  /** Pause between two calls, in milliseconds. */
  readonly pauseMs: number;
  /** Whether an error is an answer that repeating does not change. */
  readonly isFinal: (error: unknown) => boolean;
  readonly signal?: AbortSignal;
}

/**
 * Makes a call of a NATS server that can be repeated without harm, again and again until it is answered: the server may be
 * away, or be of a cluster that elects a leader. Ends early when the connection is closed.
 * @throws the last call's error; the signal's reason once it is raised
 */
export async function retryCall<T>(
  connection: NatsConnection,
  call: () => Promise<T>,
  { deadlineMs, pauseMs, isFinal, signal }: RetryOptions,
): Promise<T> {
  const until = performance.now() + deadlineMs;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await call();
    } catch (error) {
      if (isFinal(error) || connection.isClosed() || performance.now() + pauseMs > until) throw error;
    }
    await sleep(pauseMs, undefined, signal ? { signal } : {});
  }
}
