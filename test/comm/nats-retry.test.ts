import type { NatsConnection } from '@nats-io/transport-node';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { retryCall } from '../../src/comm/index.ts';

/** All that matters of a connection here. */
const connection = (isClosed = () => false) => ({ isClosed }) as NatsConnection;
const patient = { deadlineMs: 60_000, pauseMs: 1, isFinal: () => false };

/** A call that fails so often, then answers with how often it was made. */
function failing(times: number) {
  let calls = 0;
  return async (): Promise<number> => {
    calls++;
    if (calls <= times) throw new Error(`failure ${calls}`);
    return calls;
  };
}

describe('a call of a NATS server that is repeated', () => {
  it('gives the first answer, and is not made again after it', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 8 }), async (times) => {
        expect(await retryCall(connection(), failing(times), patient)).toBe(times + 1);
      }),
      { numRuns: 9 },
    ));

  it('ends with the error that is final, with the last one when time is over, and when the connection is closed', async () => {
    const final = { ...patient, isFinal: (error: unknown) => (error as Error).message === 'failure 3' };
    await expect(retryCall(connection(), failing(9), final)).rejects.toThrow('failure 3');
    await expect(retryCall(connection(), failing(9), { ...patient, deadlineMs: 0 })).rejects.toThrow('failure 1');
    let asked = 0;
    const closing = connection(() => ++asked === 2);
    await expect(retryCall(closing, failing(9), patient)).rejects.toThrow('failure 2');
  });

  it('ends with the reason of its signal, also during a pause', async () => {
    const ending = new AbortController();
    const call = async () => {
      setImmediate(() => ending.abort(new Error('enough')));
      throw new Error('away');
    };
    const pausing = retryCall(connection(), call, { ...patient, pauseMs: 30_000, signal: ending.signal });
    await expect(pausing).rejects.toMatchObject({ name: 'AbortError', cause: { message: 'enough' } });
    const later = retryCall(connection(), failing(0), { ...patient, signal: ending.signal });
    await expect(later).rejects.toThrow('enough');
  });
});
