import type * as z from 'zod';
import type { KeyPath } from './yaml-source.ts';

type Schema = z.core.$ZodType;
type ObjectSchema = z.core.$ZodObject;

/** A key that no schema at its place knows. */
export interface UnknownKey {
  readonly path: KeyPath;
  readonly key: string;
  /** The keys that are known there. */
  readonly known: readonly string[];
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Peels optional, default, nullable, readonly, lazy and pipe wrappers off a schema. */
export function unwrap(schema: Schema): Schema {
  const def = (schema as z.core.$ZodTypes)._zod.def;
  switch (def.type) {
    case 'optional':
    case 'nullable':
    case 'default':
    case 'prefault':
    case 'nonoptional':
    case 'readonly':
    case 'catch':
      return unwrap(def.innerType);
    case 'pipe':
      return unwrap((def.in as z.core.$ZodTypes)._zod.def.type === 'transform' ? def.out : def.in);
    case 'lazy':
      return unwrap(def.getter());
    default:
      return schema;
  }
}

/** The docstring of a schema, wherever among its wrappers it was put. */
export function documentation(schema: Schema): string | null {
  for (let at: Schema = schema; ; ) {
    const text = (at as Schema & { description?: string }).description;
    if (text) return text;
    const def = (at as z.core.$ZodTypes)._zod.def as { innerType?: Schema; in?: Schema };
    const inner = def.innerType ?? def.in;
    if (!inner) return null;
    at = inner;
  }
}

/** Whether a schema is a literal, an enum or `undefined` that rules `value` out. */
function rulesOut(schema: Schema, value: unknown): boolean {
  const def = (unwrap(schema) as z.core.$ZodTypes)._zod.def;
  if (def.type === 'literal') return !(def.values as unknown[]).includes(value);
  if (def.type === 'undefined') return value !== undefined;
  if (def.type === 'enum') return !Object.values(def.entries).includes(value as string);
  return false;
}

/** The object schemas that `value` may be meant for: in a union those whose literal keys do not speak against it. */
function objectsFor(schema: Schema, value: Record<string, unknown>): ObjectSchema[] {
  const bare = unwrap(schema);
  const def = (bare as z.core.$ZodTypes)._zod.def;
  if (def.type === 'object') return [bare as ObjectSchema];
  if (def.type === 'intersection') return [...objectsFor(def.left, value), ...objectsFor(def.right, value)];
  if (def.type !== 'union') return [];
  const all = def.options.flatMap((option) => objectsFor(option, value));
  const fitting = all.filter((object) =>
    Object.entries(object._zod.def.shape).every(([key, field]) => !(key in value) || !rulesOut(field, value[key])),
  );
  return fitting;
}

/** Schemas of the values of a record (mapping with free keys) among the alternatives of `schema`. */
function recordsFor(schema: Schema): Schema[] {
  const def = (unwrap(schema) as z.core.$ZodTypes)._zod.def;
  if (def.type === 'record') return [def.valueType];
  if (def.type === 'union') return def.options.flatMap(recordsFor);
  return [];
}

function elementsFor(schema: Schema): Schema[] {
  const def = (unwrap(schema) as z.core.$ZodTypes)._zod.def;
  if (def.type === 'array') return [def.element];
  if (def.type === 'union') return def.options.flatMap(elementsFor);
  return [];
}

/** Schemas that apply to the value at `key` of `value` (several in an undecided union). */
export function childSchemas(schemas: readonly Schema[], value: unknown, key: string | number): Schema[] {
  if (Array.isArray(value)) return schemas.flatMap(elementsFor);
  if (!isRecord(value)) return [];
  const fields = schemas
    .flatMap((schema) => objectsFor(schema, value))
    .map((object) => object._zod.def.shape[key])
    .filter((field) => field !== undefined);
  return fields.length > 0 ? fields : schemas.flatMap(recordsFor);
}

/** The schemas that apply at a path of a value. */
export function schemasAt(root: Schema, value: unknown, path: KeyPath): Schema[] {
  let schemas: Schema[] = [root];
  let at = value;
  for (const key of path) {
    schemas = childSchemas(schemas, at, key);
    at = isRecord(at) || Array.isArray(at) ? (at as Record<string | number, unknown>)[key] : undefined;
  }
  return schemas;
}

/** All keys of `value` that the schema does not know, at any depth. Loose objects and records accept any key. */
export function unknownKeys(root: Schema, value: unknown): UnknownKey[] {
  const found: UnknownKey[] = [];
  const visit = (schemas: readonly Schema[], at: unknown, path: KeyPath): void => {
    if (Array.isArray(at)) {
      for (const [index, item] of at.entries()) visit(childSchemas(schemas, at, index), item, [...path, index]);
      return;
    }
    if (!isRecord(at)) return;
    const objects = schemas.flatMap((schema) => objectsFor(schema, at));
    const open = schemas.flatMap(recordsFor).length > 0 || objects.some((object) => isLoose(object));
    const known = [...new Set(objects.flatMap((object) => Object.keys(object._zod.def.shape)))];
    for (const [key, child] of Object.entries(at)) {
      if (objects.length > 0 && !open && !known.includes(key)) found.push({ path, key, known });
      else visit(childSchemas(schemas, at, key), child, [...path, key]);
    }
  };
  visit([root], value, []);
  return found;
}

function isLoose(object: ObjectSchema): boolean {
  const catchall = object._zod.def.catchall;
  return catchall !== undefined && (catchall as z.core.$ZodTypes)._zod.def.type !== 'never';
}

/** What values a discriminating key may have among the alternatives of a union, e.g. the names of all datasets. */
export function literalsAt(schema: Schema, key: string): string[] {
  const def = (unwrap(schema) as z.core.$ZodTypes)._zod.def;
  if (def.type === 'union') return [...new Set(def.options.flatMap((option) => literalsAt(option, key)))];
  if (def.type === 'intersection') return [...literalsAt(def.left, key), ...literalsAt(def.right, key)];
  if (def.type !== 'object') return [];
  const field = def.shape[key];
  if (!field) return [];
  const inner = (unwrap(field) as z.core.$ZodTypes)._zod.def;
  if (inner.type === 'literal') return inner.values.map(String);
  if (inner.type === 'enum') return Object.values(inner.entries).map(String);
  return [];
}
