import { parentPort, workerData } from 'node:worker_threads';
import { createLocalTransport } from '../comm/index.ts';
import { serveJobs } from './agent/compute.ts';
import { creditsFor } from './credits.ts';
import type { LocalLinks, WorkerJob } from './protocol.ts';
import { serve } from './serve.ts';

// The module that a worker thread runs. Either its data is a job and the ports to the other ranks, and it talks through
// its port; or it has no data, and is a slot of an agent: then jobs come through its port, one after another.
if (!parentPort) throw new Error('worker/thread is run as a worker thread, not imported');
const alone = workerData as { readonly job: WorkerJob; readonly links: LocalLinks } | null;
if (alone) {
  const { job, links } = alone;
  const { deadlineMs } = job;
  const credits = creditsFor(job.train);
  const transport = createLocalTransport({ rank: job.rank, ports: links.ports, deadlineMs, credits });
  await serve(job, transport, parentPort);
} else await serveJobs(parentPort);
