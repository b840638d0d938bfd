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

/** An issue as shown to a person: place, message, the offending line with a caret, and the hint. */
export function formatIssue(issue: ConfigIssue): string {
  const { location, flag, path, message, hint } = issue;
  const place = flag ?? (location ? `${location.file}:${location.line}:${location.column}` : path || 'config');
  const lines = [`${place}: ${message}`];
  if (location && !flag) {
    const number = String(location.line);
    lines.push(`  ${number} | ${location.text}`);
    lines.push(`  ${' '.repeat(number.length)} | ${' '.repeat(location.column - 1)}^`);
  }
  if (hint) lines.push(`  ${hint}`);
  return lines.join('\n');
}
