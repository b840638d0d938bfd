import { Document, isMap, isScalar, type Node, type Pair, type Scalar } from 'yaml';
import type { ZodType } from 'zod';
import { documentation, schemasAt } from './walk.ts';
import type { KeyPath } from './yaml-source.ts';

/**
 * A config as YAML in which every key carries its docstring as a comment. Sections appear in the schema's order.
 * Reading the text back gives the same config.
 */
export function formatYaml(schema: ZodType, values: Readonly<Record<string, unknown>>, heading?: string): string {
  const doc = new Document(values, { aliasDuplicateObjects: false });
  if (heading) doc.commentBefore = heading.replace(/^/gm, ' ');
  const visit = (node: unknown, path: KeyPath): void => {
    if (!isMap(node)) return;
    for (const pair of node.items as Pair<Scalar<string>, Node | null>[]) {
      const at = [...path, pair.key.value];
      const doc = schemasAt(schema, values, at)
        .map(documentation)
        .find((text) => text !== null);
      if (doc) comment(pair, doc);
      if (path.length === 0 && isMap(pair.value)) pair.key.spaceBefore = true;
      visit(pair.value, at);
    }
  };
  visit(doc.contents, []);
  return doc.toString({ lineWidth: 0 });
}

function comment(pair: Pair<Scalar<string>, Node | null>, text: string): void {
  const flat = text.replace(/\s+/g, ' ');
  if (isScalar(pair.value) && !(typeof pair.value.value === 'string' && pair.value.value.includes('\n')))
    pair.value.comment = ` ${flat}`;
  else pair.key.commentBefore = ` ${flat}`;
}
