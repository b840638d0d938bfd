import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseDocument,
} from 'yaml';
import { ConfigError, type ConfigIssue, type SourceLocation } from './error.ts';

/** Keys from the root of a config to a value; list positions are numbers. */
export type KeyPath = readonly (string | number)[];

/** A parsed config file that still knows where everything stands. */
export interface ConfigSource {
  readonly values: Record<string, unknown>;
  /** Where a key stands (`of: 'key'`) or its value; the nearest enclosing thing if the path does not exist. */
  locate(path: KeyPath, of: 'key' | 'value'): SourceLocation | null;
}

/** Renders a path as people write it: `a.b[2].c`. */
export function formatPath(path: KeyPath): string {
  return path.reduce<string>(
    (text, key) => (typeof key === 'number' ? `${text}[${key}]` : text ? `${text}.${key}` : key),
    '',
  );
}

/**
 * Parses YAML text whose root must be a mapping.
 * @throws ConfigError on a syntax error, an empty file, or another root, with file, line and column.
 */
export function parseYaml(text: string, file: string): ConfigSource {
  const counter = new LineCounter();
  const doc: Document = parseDocument(text, { lineCounter: counter, prettyErrors: false, merge: true });
  const lines = text.split(/\r?\n/);
  const at = (offset: number): SourceLocation => {
    const { line, col } = counter.linePos(Math.min(offset, text.length));
    return { file, line: Math.max(line, 1), column: Math.max(col, 1), text: lines[line - 1] ?? '' };
  };
  const issue = (message: string, hint: string | null, location: SourceLocation | null): ConfigIssue => ({
    path: '',
    message,
    hint,
    location,
    flag: null,
  });
  if (doc.errors.length > 0)
    throw new ConfigError(
      doc.errors.map((error) =>
        issue(`invalid YAML: ${error.message.split('\n')[0]}`, yamlHint(error.code), at(error.pos[0])),
      ),
    );
  const root = doc.contents;
  if (root === null || (isScalar(root) && root.value === null))
    throw new ConfigError([
      issue(
        `${file} is empty`,
        "a config is a mapping such as 'name: my-run'; `plexus init` writes a commented one",
        null,
      ),
    ]);
  if (!isMap(root))
    throw new ConfigError([
      issue(
        `the root of a config must be a mapping of keys to values, but this is ${isSeq(root) ? 'a list' : 'a single value'}`,
        "write it as 'key: value' lines, e.g. 'model:' and its settings below",
        at(root.range?.[0] ?? 0),
      ),
    ]);
  const locate = (path: KeyPath, of: 'key' | 'value'): SourceLocation | null => {
    let node: Node = root;
    let offset = root.range?.[0] ?? 0;
    for (const [depth, key] of path.entries()) {
      if (isAlias(node)) node = node.resolve(doc) ?? node;
      let next: Node | null = null;
      if (isMap(node)) {
        const pair: Pair | undefined = node.items.find((item) => keyOf(item) === String(key));
        if (!pair) break;
        const keyOffset = isNode(pair.key) ? pair.key.range?.[0] : undefined;
        next = isNode(pair.value) ? pair.value : null;
        const valueOffset = next?.range?.[0] ?? keyOffset;
        const last = depth === path.length - 1;
        offset = (last && of === 'value' ? valueOffset : keyOffset) ?? offset;
      } else if (isSeq(node) && typeof key === 'number') {
        const item: unknown = node.items[key];
        next = isNode(item) ? item : null;
        offset = next?.range?.[0] ?? offset;
      }
      if (!next) break;
      node = next;
    }
    return at(offset);
  };
  return { values: doc.toJS() as Record<string, unknown>, locate };
}

function keyOf(pair: Pair): string {
  return String(isScalar(pair.key) ? pair.key.value : pair.key);
}

function yamlHint(code: string): string | null {
  switch (code) {
    case 'DUPLICATE_KEY':
      return 'this key stands twice in the same section: keep one';
    case 'TAB_AS_INDENT':
      return 'indent with spaces, not tabs';
    case 'BAD_INDENT':
    case 'MULTILINE_IMPLICIT_KEY':
    case 'MISSING_CHAR':
      return "check the indentation and that every key is followed by ': '";
    default:
      return null;
  }
}
