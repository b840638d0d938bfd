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

/** A source of tensors is gone, and what was asked of it can only be had by asking again. */
export class SourceGone extends ClusterError {
  override readonly name = 'SourceGone';
}
