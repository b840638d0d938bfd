import { existsSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import type { ZodType } from 'zod';
import { checkConfig } from './checks.ts';
import { formatYaml } from './format.ts';
import type { Override } from './overrides.ts';
import { parseOverride } from './overrides.ts';
import { type ConfigOrigin, readConfig } from './read.ts';
import { type Config, configSchema } from './schema.ts';

/** A complete, checked config that remembers where it came from. */
export interface ResolvedConfig extends Config {
  readonly origin: ConfigOrigin;
}

/** Keys whose values are paths of files that are read. In a file they are relative to it, in a flag to the working directory. */
const INPUT_PATHS: readonly (readonly string[])[] = [
  ['model', 'file'],
  ['data', 'path'],
  ['data', 'tokenizer', 'file'],
  ['parallel', 'schedule', 'file'],
];

/**
 * Reads, completes and checks a config: a YAML file, or an object with the same keys. `overrides` are `a.b=c` strings.
 * Paths of inputs become absolute. A config that is resolved already is returned as it is, unless there are overrides.
 * @throws ConfigError carrying everything that is wrong, with file, line, column and the likely fix.
 */
export function resolveConfig(
  source: string | Readonly<Record<string, unknown>> | ResolvedConfig,
  overrides: readonly (string | Override)[] = [],
): ResolvedConfig {
  if (isResolved(source)) {
    if (overrides.length === 0) return source;
    const { origin, ...values } = source;
    const changed = resolveConfig(values, overrides);
    const given = new Set([
      ...origin.given,
      ...overrides.map((item) => (typeof item === 'string' ? parseOverride(item) : item).path.join('.')),
    ]);
    return { ...changed, origin: { ...origin, given, fail: changed.origin.fail } };
  }
  const parsed = overrides.map((item) => (typeof item === 'string' ? parseOverride(item) : item));
  const schema = configSchema() as unknown as ZodType<Config>;
  const { values, origin } = readConfig(schema, source, parsed);
  const config = withAbsolutePaths(values, origin, parsed);
  const findings = checkConfig(config);
  for (const path of INPUT_PATHS) {
    const file = valueAt(config, path);
    if (typeof file === 'string' && !existsSync(file))
      findings.push({
        path,
        message: `there is no file '${file}'`,
        hint: `'${path.join('.')}' is relative to the config file`,
      });
  }
  if (findings.length > 0) throw origin.fail(findings);
  return { ...config, origin };
}

function isResolved(source: unknown): source is ResolvedConfig {
  return typeof source === 'object' && source !== null && 'origin' in source;
}

/** The whole config as YAML, every key with its docstring. Reading it gives the same config. */
export function formatConfig(config: ResolvedConfig): string {
  const { origin, ...values } = config;
  const heading = origin.file === null ? 'Resolved config.' : `Resolved from ${origin.file}.`;
  return formatYaml(configSchema() as unknown as ZodType, values, heading);
}

function withAbsolutePaths(values: Config, origin: ConfigOrigin, overrides: readonly Override[]): Config {
  const copy = structuredClone(values);
  for (const path of INPUT_PATHS) {
    const value = valueAt(copy, path);
    if (typeof value !== 'string' || isAbsolute(value)) continue;
    const byFlag = overrides.some((override) => override.path.every((key, i) => path[i] === key));
    const owner = valueAt(copy, path.slice(0, -1)) as Record<string, unknown>;
    owner[path[path.length - 1] as string] = resolve(byFlag ? process.cwd() : origin.directory, value);
  }
  return copy;
}

function valueAt(root: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[key] : undefined),
    root,
  );
}
