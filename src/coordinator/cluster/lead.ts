import { ControlResponder, connectNats, hostId } from '../../comm/index.ts';
import { clusterKeys, type GenerationRecord } from '../../worker/index.ts';
import type { RunEvent } from '../events.ts';
import { ClusterError } from './errors.ts';
import { LeaderLock } from './leader-lock.ts';
import { Records } from './records.ts';

/** Where a job is, and how to log in there. */
export interface JobPlace {
  readonly nats: Parameters<typeof connectNats>[0];
  /** Letters, digits, `-` and `_`. Default `default`. */
  readonly job?: string;
}

/** Subject on which the leader of a job takes orders of commands. */
export const leaderSubject = (job: string): string => `plexus.${job}.leader`;

/** A coordinator that leads a job: connected, and with the lock in hand. */
export interface Lead {
  readonly job: string;
  readonly records: Records;
  readonly lock: LeaderLock;
  /** Raised when the user wants to stop, or somebody has asked for it (`plexus stop`). */
  readonly stopping: AbortSignal;
  /** Raised when everything here ends at once. */
  readonly signal: AbortSignal;
  /** The last generation that any coordinator of this job has begun. */
  lastGeneration(): Promise<GenerationRecord | null>;
  /** Gives the lock back and closes the connection. */
  end(): Promise<void>;
}

/** How to come to lead. */
export interface LeadOptions extends JobPlace {
  readonly leaseMs: number;
  readonly deadlineMs: number;
  readonly standby: boolean;
  readonly signal: AbortSignal | undefined;
  readonly emit: (event: RunEvent) => void;
}

/**
 * Connects, and takes the lock.
 * @throws LeaderTaken; NatsConnectError; ClusterError if the server has no JetStream; the signal's reason
 */
export async function takeLead(options: LeadOptions): Promise<Lead> {
  const { job = 'default', deadlineMs } = options;
  if (!/^[\w-]{1,64}$/.test(job))
    throw new ClusterError(`'${job}' cannot be the name of a job: 1 to 64 letters, digits, - and _ are`);
  const ending = new AbortController();
  const asked = new AbortController();
  const stopping = options.signal ? AbortSignal.any([options.signal, asked.signal]) : asked.signal;
  const connection = await connectNats({ name: `plexus coordinator of ${job}`, ...options.nats });
  const records = new Records(connection, job, deadlineMs, ending.signal);
  try {
    const lock = await LeaderLock.take(records, {
      leaseMs: options.leaseMs,
      hostId: hostId(),
      standby: options.standby,
      signal: stopping,
      onWait: ({ host, pid }) =>
        options.emit({
          type: 'warning',
          message: options.standby
            ? `standing by: job '${job}' is led by the coordinator on ${host} (pid ${pid})`
            : `job '${job}' is led by the coordinator on ${host} (pid ${pid}): waiting to see whether it lives`,
        }),
    });
    const responder = new ControlResponder(connection, leaderSubject(job), (message) => {
      if ((message as { type?: unknown } | null)?.type !== 'stop') throw new Error('only { type: stop } is known here');
      asked.abort(new ClusterError('somebody asked for the run to be stopped (plexus stop)'));
      return { stopping: true };
    });
    return {
      job,
      records,
      lock,
      stopping,
      signal: ending.signal,
      lastGeneration: async () => (await records.get<GenerationRecord>(clusterKeys.generation))?.value ?? null,
      end: async () => {
        responder.close();
        await lock.release().catch(() => undefined);
        ending.abort(new ClusterError('this coordinator has ended'));
        await connection.close();
      },
    };
  } catch (error) {
    ending.abort(error);
    await connection.close();
    throw error;
  }
}
