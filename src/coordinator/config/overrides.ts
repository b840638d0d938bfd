import { parseDocument } from 'yaml';
import { ConfigError } from './error.ts';
import type { KeyPath } from './yaml-source.ts';

/** One `--set a.b=c`: the value replaces what the file says at that path. */
export interface Override {
  /** As typed, for messages: `--set parallel.data=2`. */
  readonly flag: string;
  readonly path: KeyPath;
  readonly value: unknown;
}

/**
 * Parses `a.b=c`. The value is YAML (`2`, `true`, `[a, b]`, `{name: sgd}`), path pieces are separated by dots, numbers
 * index lists, and a piece that contains dots itself is put in double quotes (`remat."blocks.0"=full`).
 * @throws ConfigError naming the flag.
 */
export function parseOverride(text: string): Override {
  const flag = `--set ${text}`;
  const fail = (message: string, hint: string): never => {
    throw new ConfigError([{ path: '', message, hint, location: null, flag }]);
  };
  const equals = text.indexOf('=');
  if (equals <= 0) fail("expected 'key=value'", 'e.g. --set parallel.data=2');
  const path = splitPath(text.slice(0, equals).trim());
  if (path === null) return fail(`'${text.slice(0, equals)}' is not a path of keys`, 'e.g. --set train.steps=100');
  const doc = parseDocument(text.slice(equals + 1), { prettyErrors: false });
  const error = doc.errors[0];
  if (error)
    fail(
      `the value is not valid YAML: ${error.message}`,
      'put text with special characters in quotes: --set \'name="a: b"\'',
    );
  return { flag, path, value: doc.toJS() as unknown };
}

function splitPath(text: string): KeyPath | null {
  const pieces: (string | number)[] = [];
  const pattern = /(?:^|\.)(?:"([^"]+)"|([^."]+))/y;
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (!match) return null;
    const [, quoted, plain] = match;
    pieces.push(quoted ?? (/^\d+$/.test(plain as string) ? Number(plain) : (plain as string)));
  }
  return pieces.length > 0 ? pieces : null;
}

/**
 * Applies overrides to a copy of `values`, making sections that are missing.
 * @throws ConfigError where a path leads through something that is not a section.
 */
export function applyOverrides(
  values: Record<string, unknown>,
  overrides: readonly Override[],
): Record<string, unknown> {
  const root = structuredClone(values);
  for (const { flag, path, value } of overrides) {
    let at = root as Record<string | number, unknown>;
    for (const [depth, key] of path.slice(0, -1).entries()) {
      at[key] ??= {};
      const next = at[key];
      if (typeof next !== 'object' || next === null)
        throw new ConfigError([
          {
            path: path.slice(0, depth + 1).join('.'),
            message: `'${path.slice(0, depth + 1).join('.')}' is ${JSON.stringify(next)}, not a section, so it has no key '${path[depth + 1]}'`,
            hint: 'set the whole value instead, or check the path',
            location: null,
            flag,
          },
        ]);
      at = next as Record<string | number, unknown>;
    }
    at[path[path.length - 1] as string | number] = value;
  }
  return root;
}
