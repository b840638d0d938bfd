import type { FailureReport, RankState } from '../worker/index.ts';

/** What a rank was doing when it was last looked at. */
export interface LastSeen {
  readonly rank: number;
  /** e.g. `step 12, Forward stage 0 microbatch 3`, or `starting`. */
  readonly doing: string;
  /** Milliseconds since it last got on. */
  readonly sinceMs: number;
}

/** A run that ended because a worker failed: one cause, everything else folded behind it. */
export class RunFailure extends Error {
  override readonly name = 'RunFailure';
  /** All reports; the first is the cause. */
  readonly reports: readonly [FailureReport, ...FailureReport[]];
  /** What each rank was last seen doing. */
  readonly lastSeen: readonly LastSeen[];
  /** Folder of the newest checkpoint that can be resumed from, or null. Filled in by the run. */
  checkpoint: string | null = null;
  /** What each rank was doing, waited for and did last, where the run ended because somebody waited for too long. */
  readonly flight: readonly RankState[];
  /** The file that has it. Filled in by the run. */
  flightFile: string | null = null;

  constructor(
    reports: readonly [FailureReport, ...FailureReport[]],
    lastSeen: readonly LastSeen[] = [],
    flight: readonly RankState[] = [],
  ) {
    super(describe(reports[0]));
    this.reports = reports;
    this.lastSeen = lastSeen;
    this.flight = flight;
  }
}

function describe(report: FailureReport): string {
  const where = [
    `rank ${report.rank}`,
    report.step === null ? '' : `step ${report.step}`,
    report.path === null ? '' : `module ${report.path}`,
    report.instruction ?? '',
    report.microbatch === null ? '' : `microbatch ${report.microbatch}`,
  ].filter((part) => part !== '');
  return `${where.join(', ')}: ${report.name}: ${report.message}`;
}

/** One line for each rank: what it was last seen doing and for how long. */
export function formatLastSeen(seen: readonly LastSeen[]): string {
  return seen
    .map(({ rank, doing, sinceMs }) => `rank ${rank}: ${doing}, for ${(sinceMs / 1000).toFixed(1)} s`)
    .join('\n');
}
