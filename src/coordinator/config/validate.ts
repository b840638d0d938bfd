import type * as z from 'zod';
import type { ZodType } from 'zod';
import { calledHere, strategyHere } from './elsewhere.ts';
import type { ConfigIssue, SourceLocation } from './error.ts';
import { nearest, suggestion } from './suggest.ts';
import { childSchemas, documentation, literalsAt, schemasAt, unknownKeys } from './walk.ts';
import { formatPath, type KeyPath } from './yaml-source.ts';

/** Tells where a key or value came from: a place in the file or a flag. */
export type Locator = (path: KeyPath, of: 'key' | 'value') => { location: SourceLocation | null; flag: string | null };

/** A validated value, or everything that is wrong with it. */
export type Validation<T> =
  | { readonly value: T; readonly issues: readonly [] }
  | { readonly issues: readonly ConfigIssue[] };

const MISSING = Symbol('missing');

function valueAt(root: unknown, path: KeyPath): unknown {
  let at = root;
  for (const key of path) {
    if (typeof at !== 'object' || at === null || !(key in at)) return MISSING;
    at = (at as Record<string | number, unknown>)[key];
  }
  return at;
}

function show(value: unknown): string {
  if (value === MISSING) return 'nothing';
  if (value === null) return 'nothing (null)';
  if (typeof value === 'string') return `the text '${value.length > 60 ? `${value.slice(0, 57)}...` : value}'`;
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a section';
  return String(value);
}

const typeNames: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'a section',
  record: 'a section',
  array: 'a list',
  null: 'null',
  nan: 'not-a-number',
};

/** Checks `input` against a schema: unknown keys at any depth, types, ranges, choices. Reports everything at once. */
export function validate<T>(schema: ZodType<T>, input: unknown, locate: Locator): Validation<T> {
  const issues: ConfigIssue[] = [];
  const unknown = unknownKeys(schema, input);
  for (const { path, key, known } of unknown) {
    const at = [...path, key];
    const where = path.length > 0 ? ` in '${formatPath(path)}'` : '';
    const here = calledHere(key);
    const keys = suggestion(key, known, path.length > 0 ? `keys of '${formatPath(path)}'` : 'keys');
    const hint = here === null ? keys : `that is ${here}`;
    issues.push({ path: formatPath(at), message: `unknown key '${key}'${where}`, hint, ...locate(at, 'key') });
  }
  const result = schema.safeParse(input);
  if (!result.success) {
    for (const found of result.error.issues) {
      for (const issue of translate(schema, input, found, locate)) {
        const covered = unknown.some(({ path, key }) => issue.path.startsWith(formatPath([...path, key])));
        const repeated = issues.some((other) => other.path === issue.path && other.message === issue.message);
        if (!covered && !repeated) issues.push(issue);
      }
    }
  }
  if (issues.length > 0) {
    return { issues: issues.sort((a, b) => (a.location?.line ?? 0) - (b.location?.line ?? 0)) };
  }
  return { value: (result as { data: T }).data, issues: [] };
}

function translate(schema: ZodType, input: unknown, found: z.core.$ZodIssue, locate: Locator): ConfigIssue[] {
  const path = found.path as KeyPath;
  const value = valueAt(input, path);
  const schemas = schemasAt(schema, input, path);
  const doc = schemas.map(documentation).find((text) => text !== null) ?? null;
  const name = formatPath(path);
  const make = (message: string, hint: string | null = doc && `${name}: ${doc}`, at: KeyPath = path): ConfigIssue => ({
    path: formatPath(at),
    message,
    hint,
    ...locate(at, valueAt(input, at) === MISSING ? 'key' : 'value'),
  });
  const subject = name ? `'${name}'` : 'the config';
  switch (found.code) {
    case 'invalid_type':
      if (value === MISSING)
        return [make(`${subject} is missing; expected ${typeNames[found.expected] ?? found.expected}`)];
      return [make(`${subject} must be ${typeNames[found.expected] ?? found.expected}, but is ${show(value)}`)];
    case 'too_small':
    case 'too_big': {
      const limit = found.code === 'too_small' ? found.minimum : found.maximum;
      const bound =
        found.code === 'too_small'
          ? found.inclusive
            ? 'at least'
            : 'more than'
          : found.inclusive
            ? 'at most'
            : 'less than';
      if (found.origin === 'string') {
        const length = (value as string).length;
        return [
          make(`${subject} must have ${bound} ${limit} characters, but ${length === 0 ? 'is empty' : `has ${length}`}`),
        ];
      }
      if (found.origin === 'array' || found.origin === 'set')
        return [make(`${subject} must have ${bound} ${limit} elements, but has ${(value as unknown[]).length}`)];
      return [make(`${subject} must be ${bound} ${limit}, but is ${show(value)}`)];
    }
    case 'not_multiple_of':
      return [make(`${subject} must be a multiple of ${found.divisor}, but is ${show(value)}`)];
    case 'invalid_value': {
      const choices = found.values.map(String);
      const near = typeof value === 'string' ? nearest(value, choices) : null;
      const message =
        value === MISSING
          ? `${subject} is missing`
          : `${subject} must be one of ${choices.join(', ')}, but is ${show(value)}`;
      return [make(message, near === null ? doc && `${name}: ${doc}` : `did you mean '${near}'?`)];
    }
    case 'unrecognized_keys':
      return found.keys.map((key) => {
        const at = [...path, key];
        return make(`unknown key '${key}'${name ? ` in '${name}'` : ''}`, null, at);
      });
    case 'invalid_union':
      return translateUnion(schema, input, found, locate, make, subject, value);
    case 'invalid_key':
    case 'invalid_element':
      return found.issues.map((inner) => make(`${subject}: ${inner.message}`));
    default:
      return [make(found.code === 'custom' ? found.message : `${subject}: ${found.message}`)];
  }
}

function translateUnion(
  schema: ZodType,
  input: unknown,
  found: z.core.$ZodIssueInvalidUnion,
  locate: Locator,
  make: (message: string, hint?: string | null, at?: KeyPath) => ConfigIssue,
  subject: string,
  value: unknown,
): ConfigIssue[] {
  const path = found.path as KeyPath;
  const discriminator = found.discriminator;
  if (discriminator !== undefined) {
    // zod puts the discriminator at the end of the path; ours may or may not have it yet.
    const at = path[path.length - 1] === discriminator ? path : [...path, discriminator];
    const owner = at.slice(0, -1);
    const given = valueAt(input, at);
    const options = schemasAt(schema, input, owner);
    const known = options.flatMap((option) => literalsAt(option, discriminator));
    const text = typeof given === 'string' ? given : '';
    const here = formatPath(at) === 'scheduler.name' ? strategyHere(text) : null;
    const list =
      here !== null
        ? `that is ${here}`
        : /\.[cm]?[jt]s$/.test(text) && childSchemas(options, {}, 'file').length > 0
          ? `a file is given by '${formatPath([...owner, 'file'])}'`
          : suggestion(text, [...new Set(known)], 'known');
    const label = formatPath(at);
    return [
      make(given === MISSING ? `'${label}' is missing` : `'${label}' is ${show(given)}, which is not known`, list, at),
    ];
  }
  // Show what is wrong with the alternative that got furthest: fewest issues, none at the union's own root.
  const options = found.errors.filter((errors) => errors.length > 0);
  const deep = options
    .filter((errors) => errors.every((error) => error.path.length > 0))
    .sort((a, b) => a.length - b.length)[0];
  if (deep)
    return deep.flatMap((error) =>
      translate(schema, input, { ...error, path: [...path, ...error.path] } as z.core.$ZodIssue, locate),
    );
  const expected = options
    .flat()
    .map((error) =>
      error.code === 'invalid_type'
        ? (typeNames[error.expected] ?? error.expected)
        : error.code === 'invalid_value'
          ? error.values.join(', ')
          : error.message,
    );
  return [make(`${subject} must be ${[...new Set(expected)].join(' or ')}, but is ${show(value)}`)];
}
