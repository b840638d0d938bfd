import { readFileSync, statSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import type { ZodType } from 'zod';
import { ConfigError, type ConfigIssue } from './error.ts';
import { applyOverrides, type Override, parseOverride } from './overrides.ts';
import { type Locator, validate } from './validate.ts';
import { type ConfigSource, type KeyPath, parseYaml } from './yaml-source.ts';

/** Where a config came from: what messages and relative paths refer to. */
export interface ConfigOrigin {
  /** Absolute path of the file, or null for a config given as an object. */
  readonly file: string | null;
  /** Folder that relative paths in the config refer to: the file's, or the working directory. */
  readonly directory: string;
  /** Dotted paths of the values that were given rather than defaulted. */
  readonly given: ReadonlySet<string>;
  /** Makes a ConfigError of what a later check found, with file, line and column (or the flag) of the value. */
  fail(findings: readonly Finding[], cause?: unknown): ConfigError;
}

/** Something wrong that a later check found; placed like any other issue. */
export interface Finding {
  readonly path: KeyPath;
  readonly message: string;
  readonly hint?: string;
}

/** What `readConfig` returns. */
export interface ReadResult<T> {
  readonly values: T;
  readonly origin: ConfigOrigin;
}

/**
 * Reads a config from a YAML file or an object, applies `--set` overrides and validates it against a schema.
 * @throws ConfigError carrying everything that is wrong, each with its place and the likely fix.
 */
export function readConfig<T>(
  schema: ZodType<T>,
  source: string | Readonly<Record<string, unknown>>,
  overrides: readonly (string | Override)[] = [],
): ReadResult<T> {
  const file = typeof source === 'string' ? resolve(source) : null;
  const parsed = typeof source === 'string' ? readFile(source) : objectSource(source);
  const changes = overrides.map((item) => (typeof item === 'string' ? parseOverride(item) : item));
  const input = applyOverrides(parsed.values, changes);
  const locate: Locator = (path, of) => {
    const change = changes.findLast(({ path: set }) => set.every((key, i) => String(path[i]) === String(key)));
    return { location: parsed.locate(path, of), flag: change?.flag ?? null };
  };
  const result = validate(schema, input, locate);
  if (!('value' in result)) throw new ConfigError(result.issues);
  const place = ({ path, message, hint }: Finding): ConfigIssue => ({
    path: path.join('.'),
    message,
    hint: hint ?? null,
    ...locate(path, 'value'),
  });
  return {
    values: result.value,
    origin: {
      file,
      directory: file === null ? process.cwd() : dirname(file),
      given: leafPaths(input),
      fail: (findings, cause) => new ConfigError(findings.map(place), cause),
    },
  };
}

function readFile(source: string): ConfigSource {
  const shown = relative(process.cwd(), source);
  const name = shown.startsWith('..') || shown === '' ? source : shown;
  const fail = (message: string, hint: string): never => {
    throw new ConfigError([{ path: '', message, hint, location: null, flag: null }]);
  };
  const stat = statSync(source, { throwIfNoEntry: false });
  if (!stat)
    fail(`there is no file '${name}'`, 'check the path; `plexus init` writes a commented config to start from');
  if (stat?.isDirectory()) fail(`'${name}' is a folder, not a config file`, 'give the YAML file in it');
  let text = '';
  try {
    text = readFileSync(source, 'utf8');
  } catch (error) {
    fail(`'${name}' cannot be read: ${(error as Error).message}`, 'check its permissions');
  }
  return parseYaml(text, name);
}

function objectSource(values: Readonly<Record<string, unknown>>): ConfigSource {
  return { values: { ...values }, locate: () => null };
}

/** Dotted paths of all leaves and sections of a value. */
function leafPaths(value: unknown): Set<string> {
  const paths = new Set<string>();
  const visit = (at: unknown, path: string): void => {
    if (path) paths.add(path);
    if (typeof at === 'object' && at !== null && !Array.isArray(at))
      for (const [key, child] of Object.entries(at)) visit(child, path ? `${path}.${key}` : key);
  };
  visit(value, '');
  return paths;
}
