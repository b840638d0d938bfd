import { parentPort, workerData } from 'node:worker_threads';
import { createLocalTransport, type LocalLinks } from '../comm/index.ts';
import { serveJobs } from './agent/compute.ts';
import { creditsFor } from './credits.ts';
import type { WorkerJob } from './protocol.ts';
import { serve } from './serve.ts';

/**
 * What a worker thread does from start to end. Either its data is a job and the ports to the other ranks, and it talks through
 * its port; or it has no data, and is a slot of an agent: then jobs come through its port, one after another.
 * @throws Error outside of a worker thread
 */
export async function runWorkerThread(): Promise<void> {
  if (!parentPort) throw new Error('runWorkerThread() is for the module of a worker thread');
  const alone = workerData as { readonly job: WorkerJob; readonly links: LocalLinks } | null;
  if (!alone) return serveJobs(parentPort);
  const { job, links } = alone;
  const { deadlineMs } = job;
  const credits = creditsFor(job.train);
  const transport = createLocalTransport({ rank: job.rank, ...links, deadlineMs, credits });
  await serve(job, transport, parentPort, {}, { gathersSteps: true });
}
