import { parentPort, workerData } from 'node:worker_threads';
import { channelOf, createLocalTransport } from '../comm/index.ts';
import type { Program } from '../plan/index.ts';
import type { LocalLinks, WorkerJob } from './protocol.ts';
import { serve } from './serve.ts';

// The module that a worker thread runs. Its data is a job and the ports to the other ranks; it talks through its port.
const { job, links } = workerData as { readonly job: WorkerJob; readonly links: LocalLinks };
if (!parentPort) throw new Error('worker/thread is run as a worker thread, not imported');
const transport = createLocalTransport({
  rank: job.rank,
  ports: links.ports,
  deadlineMs: job.deadlineMs,
  credits: creditsFor(job.train),
});
await serve(job, transport, parentPort);

/**
 * Messages that may be under way in a channel: at least what the program sends through one in a step, so that no order
 * of instructions that the verifier has passed can block for want of credit.
 */
function creditsFor({ instructions }: Program): number {
  const sent = new Map<string, number>();
  for (const instruction of instructions) {
    if (instruction.op !== 'Send') continue;
    const channel = `${instruction.to}/${channelOf(instruction.tag)}`;
    sent.set(channel, (sent.get(channel) ?? 0) + 1);
  }
  return Math.max(64, ...sent.values());
}
