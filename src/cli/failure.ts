import { fileURLToPath } from 'node:url';
import type { FailureReport } from '../worker/index.ts';
import { painter } from './terminal.ts';

/** How much to show, and in colour or not. */
export interface FailureFormat {
  /** Whole stacks and the failures that followed from the first. */
  readonly verbose?: boolean;
  readonly colour?: boolean;
}

/** Where Plexus itself lies, as stacks name it. */
const PLEXUS = fileURLToPath(new URL('..', import.meta.url));

/** Frames of a stack that are of the user's own code: not Node's, not of packages, and not of Plexus. */
export function userFrames(stack: string): string[] {
  return framesOf(stack).filter(
    (line) => /:\d+:\d+\)?$/.test(line) && !/node:|node_modules/.test(line) && !line.includes(PLEXUS),
  );
}

/** The frames of a stack that a person can act on: the user's own, else not Node's own and not those of packages. */
function ownFrames(stack: string): string[] {
  const frames = framesOf(stack);
  const user = userFrames(stack);
  if (user.length > 0) return user;
  const own = frames.filter((line) => !/node:|node_modules/.test(line));
  return own.length > 0 ? own : frames;
}

function framesOf(stack: string): string[] {
  return stack
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .map((line) => line.trim());
}

/**
 * The one cause block of a failed run: which worker, where in the model, in which instruction of which step, and the
 * original message. Everything else (failures that only followed from it, deep stacks) is folded to one line.
 */
export function formatFailure(reports: readonly FailureReport[], format: FailureFormat = {}): string {
  const paint = painter(format.colour === true);
  const cause = reports.find((report) => !report.secondary) ?? reports[0];
  if (!cause) return 'the run failed, but no worker reported why';
  const others = reports.filter((report) => report !== cause);
  const where = cause.step === null ? '' : ` at step ${cause.step}`;
  const rows: [string, string][] = [];
  if (cause.path !== null) rows.push(['module', cause.path]);
  if (cause.instruction !== null) rows.push(['instruction', cause.instruction]);
  if (cause.microbatch !== null) rows.push(['microbatch', String(cause.microbatch)]);
  const frames = ownFrames(cause.stack);
  const lines = [paint(['red', 'bold'], `✗ worker ${cause.rank} failed${where}`)];
  const [first = '', ...more] = cause.message.split('\n');
  lines.push(`  ${paint('bold', `${cause.name}: ${first}`)}`, ...more.map((line) => `  ${line}`));
  for (const [label, value] of rows) lines.push(`  ${paint('dim', label.padEnd(12))} ${value}`);
  if (format.verbose) {
    for (const line of cause.stack.split('\n')) if (/^\s+at /.test(line)) lines.push(`  ${paint('dim', line.trim())}`);
    for (const other of others)
      lines.push(
        '',
        `  worker ${other.rank}${other.secondary ? ' (followed)' : ''}: ${other.name}: ${other.message}`,
        ...stackOf(other.stack),
      );
    return lines.join('\n');
  }
  // A place in Plexus itself says nothing to anybody where the module is known.
  const frame = userFrames(cause.stack)[0] ?? (cause.path === null ? frames[0] : undefined);
  if (frame) lines.push(`  ${paint('dim', 'at'.padEnd(12))} ${frame.replace(/^at /, '')}`);
  const folded: string[] = [];
  if (frames.length > (frame ? 1 : 0)) folded.push('the whole stack');
  if (others.length > 0) folded.push(`${others.length} more report${others.length > 1 ? 's' : ''} from other workers`);
  if (folded.length > 0) lines.push(paint('dim', `  (--verbose shows ${folded.join(' and ')})`));
  return lines.join('\n');
}

function stackOf(stack: string): string[] {
  return stack
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .map((line) => `    ${line.trim()}`);
}
