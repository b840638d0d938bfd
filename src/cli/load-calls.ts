import type { ClusterCalls } from './cluster-calls.ts';

/** The library's own calls. Loaded when a command needs them. */
export async function clusterCalls(): Promise<ClusterCalls> {
  const [worker, coordinator] = await Promise.all([import('../worker/index.ts'), import('../coordinator/index.ts')]);
  return { ...worker, ...coordinator } as unknown as ClusterCalls;
}
