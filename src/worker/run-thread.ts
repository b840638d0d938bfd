import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { createLocalTransport, type LocalLinks } from '../comm/index.ts';
import { serveJobs } from './agent/compute.ts';
import { creditsFor } from './credits.ts';
import type { WorkerEvent, WorkerJob } from './protocol.ts';
import { serve } from './serve.ts';

/** Data of a worker thread that is started before there is a job for it: the first message is the job, or null for none. */
export interface WaitingData {
  readonly rank: number;
}

interface OwnJob extends WaitingData {
  readonly job: WorkerJob;
  readonly links: LocalLinks;
}

/**
 * What a worker thread does from start to end. Either its data is a job and the ports to the other ranks (or only its rank, and
 * these come in a message), and it talks through its port; or it has no data, and is a slot of an agent: then jobs come through its port, one
 * after another.
 * @throws Error outside of a worker thread
 */
export async function runWorkerThread(): Promise<void> {
  if (!parentPort) throw new Error('runWorkerThread() is for the module of a worker thread');
  const given = workerData as OwnJob | WaitingData | null;
  if (!given) return serveJobs(parentPort);
  const own = 'job' in given ? given : await firstMessage(parentPort);
  if (!own) return parentPort.close();
  const { job, links } = own;
  const { deadlineMs } = job;
  const credits = creditsFor(job.train);
  const transport = createLocalTransport({ rank: job.rank, ...links, deadlineMs, credits });
  await serve(job, transport, parentPort, {}, { gathersSteps: true });
}

/** Says that this thread has loaded, and waits to be told what to do. */
function firstMessage(port: MessagePort): Promise<OwnJob | null> {
  return new Promise((resolve) => {
    port.once('message', resolve);
    port.postMessage({ type: 'loaded' } satisfies WorkerEvent);
  });
}
