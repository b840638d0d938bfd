import { dirname } from 'node:path';
import { type FailureReport, formatFlight, type RankState } from '../worker/index.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { formatFailure, userFrames } from './failure.ts';
import { painter, shownPath } from './terminal.ts';

/** Errors that say all there is to say in their message, and the exit codes of commands that end in them. */
const known: Readonly<Record<string, ExitCode>> = {
  ConfigError: exitCodes.usage,
  UsageError: exitCodes.usage,
  PlanError: exitCodes.usage,
  VerificationError: exitCodes.usage,
  DataError: exitCodes.data,
  CheckpointError: exitCodes.data,
  EngineError: exitCodes.runFailed,
  ModuleError: exitCodes.runFailed,
  RunFailure: exitCodes.runFailed,
  CommTimeout: exitCodes.runFailed,
  CommClosed: exitCodes.runFailed,
  ClusterError: exitCodes.runFailed,
  RoundsFailed: exitCodes.runFailed,
  ClientRefusal: exitCodes.data,
  LeaderTaken: exitCodes.usage,
  LeaderLost: exitCodes.runFailed,
  LaunchError: exitCodes.runFailed,
  AgentRefusal: exitCodes.unreachable,
  RecordsUnreachable: exitCodes.unreachable,
  NoSuchJob: exitCodes.usage,
  NatsConnectError: exitCodes.unreachable,
  NatsServerError: exitCodes.unreachable,
};

/** The reports of workers that an error of a run carries. */
function workerReports(error: Error): readonly FailureReport[] {
  const { reports } = error as Error & { reports?: unknown };
  return Array.isArray(reports) ? (reports as FailureReport[]) : [];
}

/** What is left of a failed run to go on from. */
function keptCheckpoint(error: Error): string[] {
  const { checkpoint } = error as Error & { checkpoint?: unknown };
  if (typeof checkpoint !== 'string') return [];
  const run = dirname(dirname(checkpoint));
  return [`  last good checkpoint: ${shownPath(checkpoint)}; go on from it with --resume ${shownPath(run)}`];
}

/** What the ranks of a run that hung did last: folded to one line, if that is not asked for. */
function lastInstructions(error: Error, { verbose, colour }: { verbose: boolean; colour: boolean }): string[] {
  const { flight, flightFile } = error as Error & { flight?: readonly RankState[]; flightFile?: string | null };
  if (!Array.isArray(flight) || flight.length === 0) return [];
  if (verbose)
    return formatFlight(flight)
      .split('\n')
      .map((line) => `  ${line}`);
  const where = flightFile ? `, ${shownPath(flightFile)} has more of them` : '';
  return [painter(colour)('dim', `  (--verbose shows the last instructions of each worker${where})`)];
}

/** What a failed command prints on standard error, and its exit code. */
export function describeError(
  thrown: unknown,
  options: { readonly verbose: boolean; readonly colour: boolean },
): { readonly text: string; readonly code: ExitCode } {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  const paint = painter(options.colour);
  const code = known[error.name];
  const reports = workerReports(error);
  if (reports.length > 0) {
    const text = [formatFailure(reports, options), ...lastInstructions(error, options), ...keptCheckpoint(error)].join(
      '\n',
    );
    return { text, code: code ?? exitCodes.runFailed };
  }
  const trace = options.verbose && error.stack ? `\n${stackAndCauses(error)}` : '';
  if (code !== undefined) {
    const at = trace === '' ? userFrame(error) : '';
    return { text: `${paint(['red', 'bold'], '✗')} ${error.message}${at}${trace}`, code };
  }
  // File system errors are about something the person named; anything else is a fault of Plexus or of a user module.
  if ('code' in error && typeof error.code === 'string' && /^E[A-Z]+$/.test(error.code))
    return { text: `${paint(['red', 'bold'], '✗')} ${error.message}${trace}`, code: exitCodes.data };
  const where = trace || `\n${firstFrame(error)}`;
  return { text: `${paint(['red', 'bold'], '✗')} ${error.name}: ${error.message}${where}`, code: exitCodes.internal };
}

/** Where in the user's own module file it began, if that is where. */
function userFrame(error: Error): string {
  let origin = error;
  while (origin.cause instanceof Error) origin = origin.cause;
  const frame = origin === error ? undefined : userFrames(origin.stack ?? '')[0];
  return frame ? `\n  ${frame}` : '';
}

function firstFrame(error: Error): string {
  const frame = error.stack?.split('\n').find((line) => /^\s+at /.test(line) && !/node:/.test(line));
  return `${frame ? `  ${frame.trim()}\n` : ''}  (--verbose shows the whole stack)`;
}

function stackAndCauses(error: Error): string {
  const lines: string[] = [];
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    lines.push(at === error ? (at.stack ?? '').replace(/^[^\n]*\n?/, '') : `caused by ${at.stack}`);
  return lines.join('\n');
}
