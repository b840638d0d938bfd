import type { ClusterStatus } from '../coordinator/index.ts';
import type { ClusterCalls } from './cluster-calls.ts';
import { linkCounts, seconds } from './cluster-view.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import { formatTable } from './table.ts';
import { isInteractive, painter, type Streams, shownPath } from './terminal.ts';

/** `plexus ps`: who leads a job, how far it is, who takes part and how they are linked. */
export async function ps(
  options: NatsFlags & { readonly json?: boolean },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const { nats, job } = natsPlace(options);
  const status = await (await calls()).clusterStatus({ nats, job });
  streams.out.write(`${options.json ? JSON.stringify(status) : formatStatus(status, isInteractive(streams.err))}\n`);
  return exitCodes.ok;
}

/** Ranks up to which links are shown one by one. */
const MATRIX_LIMIT = 16;

/** A job for people to read. */
export function formatStatus(status: ClusterStatus, colour: boolean): string {
  const paint = painter(colour);
  const { leader, record, members } = status;
  // What an earlier run of the job has left says nothing of this one.
  const own = (of: number): boolean => record === null || of >= record.firstGeneration;
  const generation = status.generation && own(status.generation.generation) ? status.generation : null;
  const position = status.position && own(status.position.generation) ? status.position : null;
  const rows: [string, string][] = [];
  const state = record?.status ?? 'no run yet';
  if (record) rows.push(['run', `${record.runId}  ${shownPath(record.runDir)}`]);
  if (position)
    rows.push([
      'step',
      `${position.step} of ${position.steps}` +
        (position.loss === null ? '' : `, loss ${position.loss.toFixed(4)}`) +
        (position.checkpoint === null ? ', no checkpoint yet' : `, checkpoint of step ${position.checkpoint}`),
    ]);
  rows.push([
    'leader',
    leader ? `${leader.host} pid ${leader.pid} (term ${leader.term})` : 'nobody leads this job now',
  ]);
  if (generation) {
    const { mesh } = generation;
    rows.push(['generation', `${generation.generation}, from step ${generation.fromStep}: ${generation.reason}`]);
    rows.push([
      'mesh',
      `data ${mesh.data} × pipeline ${mesh.pipeline}, expert ${mesh.expert}; links ${linkCounts(generation.links) || 'none'}`,
    ]);
  }
  const lines = [
    `${paint('bold', `job ${status.job}`)}  ${state}`,
    ...rows.map(([label, value]) => `  ${label.padEnd(10)}  ${value}`),
    '',
  ];
  if (members.length === 0) return [...lines, 'no workers; start some with `plexus worker`'].join('\n');
  lines.push(
    ...formatTable(
      ['WORKER', 'HOST', 'PID', 'DEVICE', 'SLOTS', 'RANKS', 'LEASE'],
      members.map((member) => [
        member.id,
        member.host,
        String(member.pid),
        member.device,
        String(member.slots),
        member.ranks.length > 0 ? member.ranks.join(' ') : 'spare',
        member.ageMs > member.leaseMs
          ? `expired ${seconds(member.ageMs - member.leaseMs)} ago`
          : `${seconds(member.ageMs)} of ${seconds(member.leaseMs)}`,
      ]),
    ),
  );
  if (generation && generation.links.length > 1 && generation.links.length <= MATRIX_LIMIT)
    lines.push(
      '',
      ...formatTable(
        ['LINKS', ...generation.links.map((_, rank) => `to ${rank}`)],
        generation.links.map((row, rank) => [`from ${rank}`, ...row]),
      ),
    );
  return lines.join('\n');
}
