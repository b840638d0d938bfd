import type { LeaderRecord } from '../../worker/index.ts';

/** A run on agents cannot begin or go on. The message names what is missing and what would help. */
export class ClusterError extends Error {
  override readonly name: string = 'ClusterError';
}

/** Another coordinator leads the job. */
export class LeaderTaken extends ClusterError {
  override readonly name = 'LeaderTaken';
  readonly leader: LeaderRecord;

  constructor(job: string, leader: LeaderRecord & { readonly since?: string }) {
    const since = leader.since === undefined ? '' : `, since ${leader.since}`;
    super(
      `job '${job}' is led by the coordinator on ${leader.host} (pid ${leader.pid}${since}): ` +
        'stop it (plexus stop), wait for it with --standby, or give this run another --job',
    );
    this.leader = leader;
  }
}

/** This coordinator's lock was taken by another: it must not touch the run any more. */
export class LeaderLost extends ClusterError {
  override readonly name = 'LeaderLost';
}

/** The server is away for long, has no JetStream, or this login may not use the job's records. */
export class RecordsUnreachable extends ClusterError {
  override readonly name = 'RecordsUnreachable';
}

/** Nobody has ever used a job of that name on this server. */
export class NoSuchJob extends ClusterError {
  override readonly name = 'NoSuchJob';

  constructor(job: string, cause: unknown) {
    super(`the server knows no job '${job}': has a worker or coordinator of it been started?`, { cause });
  }
}

/** A source of tensors is gone, and what was asked of it can only be had by asking again. */
export class SourceGone extends ClusterError {
  override readonly name = 'SourceGone';
}
