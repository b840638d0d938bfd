import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import type { Streams } from './terminal.ts';

/**
 * `plexus stop [JOB] [--workers]`: ends the run of a job after its step, with a checkpoint. Workers stay, for the next run, unless
 * they are to end too.
 */
export async function stop(
  job: string | undefined,
  options: NatsFlags & { readonly json?: boolean; readonly workers?: boolean },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const place = natsPlace(job === undefined ? options : { ...options, job });
  const ended = options.workers ?? false;
  const { run, workers } = await (await calls()).stopJob({ nats: place.nats, job: place.job }, { workers: ended });
  const spare = run === null ? '' : '; its workers are spare (--workers ends them too)';
  const rest = ended ? `; ${workers} ${workers === 1 ? 'worker was' : 'workers were'} told to end` : spare;
  const text = `job ${place.job}: ${run === null ? 'no run was going on' : `run ${run} has stopped`}${rest}`;
  streams.out.write(`${options.json ? JSON.stringify({ job: place.job, run, workers }) : text}\n`);
  return exitCodes.ok;
}
