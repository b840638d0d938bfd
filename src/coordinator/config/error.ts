/** Where in a file something stands. Lines and columns count from 1. */
export interface SourceLocation {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** The whole line, for the reader to recognise. */
  readonly text: string;
}

/** One thing that is wrong with a config. */
export interface ConfigIssue {
  /** Dotted path of the key, e.g. `parallel.data`; empty for the config as a whole. */
  readonly path: string;
  /** What is wrong: the constraint and the value. */
  readonly message: string;
  /** The likely fix, or null where the message says it all. */
  readonly hint: string | null;
  /** Where the value stands in the file; null where it came from elsewhere. */
  readonly location: SourceLocation | null;
  /** The command-line override that brought the value, e.g. `--set parallel.data=two`. */
  readonly flag: string | null;
}

/** A config that cannot be used. Carries everything that is wrong with it, so that it is mended in one go. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly issues: readonly ConfigIssue[];

  constructor(issues: readonly ConfigIssue[], cause?: unknown) {
    super(issues.map(formatIssue).join('\n'), cause === undefined ? {} : { cause });
    this.issues = issues;
  }
}

/** Characters of a long line that are shown around the place. */
const EXCERPT = 100;

/** The part of a line around a column; all of it where it is not long. */
function excerpt(text: string, column: number): { readonly text: string; readonly column: number } {
  if (text.length <= EXCERPT) return { text, column };
  const start = Math.max(0, Math.min(column - 1 - EXCERPT / 2, text.length - EXCERPT));
  const shown = `${start > 0 ? '…' : ''}${text.slice(start, start + EXCERPT)}${start + EXCERPT < text.length ? '…' : ''}`;
  return { text: shown, column: column - start + (start > 0 ? 1 : 0) };
}

/** An issue as shown to a person: place, message, the offending line with a caret, and the hint. */
export function formatIssue(issue: ConfigIssue): string {
  const { location, flag, path, message, hint } = issue;
  const place = flag ?? (location ? `${location.file}:${location.line}:${location.column}` : path || 'config');
  const lines = [`${place}: ${message}`];
  if (location && !flag) {
    const number = String(location.line);
    const { text, column } = excerpt(location.text, location.column);
    lines.push(`  ${number} | ${text}`);
    lines.push(`  ${' '.repeat(number.length)} | ${' '.repeat(column - 1)}^`);
  }
  if (hint) lines.push(`  ${hint}`);
  return lines.join('\n');
}
