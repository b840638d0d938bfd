import type * as coordinator from '../coordinator/index.ts';
import type * as worker from '../worker/index.ts';

/** The library calls behind the commands, so that tests can put others in their place. */
export interface ClusterCalls {
  readonly runAgent: typeof worker.runAgent;
  readonly trainCluster: typeof coordinator.trainCluster;
  readonly resumeCluster: typeof coordinator.resumeCluster;
  readonly clusterStatus: typeof coordinator.clusterStatus;
  readonly debugJob: typeof coordinator.debugJob;
  readonly stopJob: typeof coordinator.stopJob;
  readonly tailLogs: typeof coordinator.tailLogs;
}

/** The library's own. Loaded when a command needs them. */
export async function clusterCalls(): Promise<ClusterCalls> {
  const [{ runAgent }, library] = await Promise.all([
    import('../worker/index.ts'),
    import('../coordinator/index.ts'),
    // Strategies register themselves, as for any run.
    import('../schedulers/index.ts'),
  ]);
  const { trainCluster, resumeCluster, clusterStatus, debugJob, stopJob, tailLogs } = library;
  return { runAgent, trainCluster, resumeCluster, clusterStatus, debugJob, stopJob, tailLogs };
}
