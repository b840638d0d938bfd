import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import type { Streams } from './terminal.ts';

/** `plexus stop [JOB]`: ends the run of a job after its step, with a checkpoint; with `--workers` the workers end too. */
export async function stop(
  job: string | undefined,
  options: NatsFlags & { readonly json?: boolean; readonly workers?: boolean },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const place = natsPlace(job === undefined ? options : { ...options, job });
  const result = await (await calls()).stopJob(
    { nats: place.nats, job: place.job },
    { workers: options.workers === true },
  );
  const parts = [
    result.run === null ? 'no run was going on' : `run ${result.run} stops after its step, with a checkpoint`,
    ...(options.workers ? [`${result.workers} worker${result.workers === 1 ? '' : 's'} told to end`] : []),
  ];
  streams.out.write(
    `${options.json ? JSON.stringify({ job: place.job, ...result }) : `job ${place.job}: ${parts.join('; ')}`}\n`,
  );
  return exitCodes.ok;
}
