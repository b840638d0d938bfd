import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import type { Streams } from './terminal.ts';

/** `plexus stop [JOB]`: ends the run of a job after its step, with a checkpoint. Workers stay, for the next run. */
export async function stop(
  job: string | undefined,
  options: NatsFlags & { readonly json?: boolean },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const place = natsPlace(job === undefined ? options : { ...options, job });
  await (await calls()).stopJob({ nats: place.nats, job: place.job });
  const text = `job ${place.job}: the run has stopped; its workers are spare`;
  streams.out.write(`${options.json ? JSON.stringify({ job: place.job, stopped: true }) : text}\n`);
  return exitCodes.ok;
}
