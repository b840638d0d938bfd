import type { DebugReport } from '../coordinator/index.ts';
import type { ClusterCalls } from './cluster-calls.ts';
import { seconds } from './cluster-view.ts';
import { type Culprit, findCulprit } from './culprit.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import { isInteractive, painter, type Streams } from './terminal.ts';

/** `plexus debug [JOB]`: what each rank does, whom it waits for and since when, and who holds up the others. */
export async function debug(
  job: string | undefined,
  options: NatsFlags & { readonly json?: boolean; readonly last?: number },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const place = natsPlace(job === undefined ? options : { ...options, job });
  const report = await (await calls()).debugJob({ nats: place.nats, job: place.job });
  const culprit = findCulprit(report.ranks);
  const text = options.json
    ? JSON.stringify({ ...report, culprit })
    : formatDebug(report, culprit, { last: options.last ?? 5, colour: isInteractive(streams.err) });
  streams.out.write(`${text}\n`);
  return exitCodes.ok;
}

/** Instructions and waits of a job for people to read. */
export function formatDebug(
  { ranks, silent }: DebugReport,
  culprit: Culprit,
  { last, colour }: { readonly last: number; readonly colour: boolean },
): string {
  const paint = painter(colour);
  const lines: string[] = [];
  for (const rank of [...ranks].sort((a, b) => a.rank - b.rank)) {
    lines.push(
      `${paint('bold', `rank ${rank.rank}`)}  step ${rank.step}  ${rank.doing} for ${seconds(rank.sinceMs)}  ${paint('dim', `(${rank.agent}, generation ${rank.generation})`)}`,
    );
    for (const wait of rank.waits)
      lines.push(`  waits for rank ${wait.from}, ${wait.tag}, since ${seconds(wait.sinceMs)}`);
    const recent = last > 0 ? rank.recent.slice(-last) : [];
    for (const { instruction, step, ms } of recent)
      lines.push(paint('dim', `  ${`${seconds(ms)} ago`.padStart(10)}  step ${step}  ${instruction}`));
  }
  for (const { agent, reason } of silent) lines.push(`${paint('red', '✗')} worker ${agent} did not answer: ${reason}`);
  if (ranks.length === 0 && silent.length === 0) return 'no rank is at work in this job';
  return [...lines, '', verdict(culprit)].join('\n');
}

function verdict(culprit: Culprit): string {
  switch (culprit.kind) {
    case 'none':
      return 'nobody waits for anybody: all ranks compute, or are between steps';
    case 'circle':
      return `ranks ${[...culprit.ranks, culprit.ranks[0]].join(' → ')} wait for each other in a circle: this is a fault of Plexus, please report it with this output`;
    case 'rank': {
      const { rank, waiting, answered, doing, sinceMs } = culprit;
      const who = waiting.length === 1 ? `rank ${waiting[0]} waits` : `ranks ${waiting.join(', ')} wait`;
      return answered
        ? `likely culprit: rank ${rank} (${doing} for ${seconds(sinceMs ?? 0)}): ${who} for it, and it waits for nobody`
        : `likely culprit: rank ${rank}: ${who} for it, and it did not answer`;
    }
  }
}
