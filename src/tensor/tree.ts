/** A tree of values whose leaves are named by a dotted path (`blocks.3.attn.q.weight`). */
export type Tree<T> = { readonly [key: string]: T | Tree<T> };

/** Leaves by dotted path. The canonical order of a model's parameters is `pathsInOrder`. */
export type FlatTree<T> = Readonly<Record<string, T>>;

/** Joins path pieces, skipping empty ones. */
export function joinPath(...parts: readonly (string | number)[]): string {
  return parts.filter((part) => part !== '').join('.');
}

/** Flattens nested objects into dotted paths. `isLeaf` tells leaves from branches. */
export function flatten<T>(tree: Tree<T>, isLeaf: (node: T | Tree<T>) => node is T, prefix = ''): Record<string, T> {
  const out: Record<string, T> = {};
  for (const [key, node] of Object.entries(tree)) {
    const path = joinPath(prefix, key);
    if (isLeaf(node)) out[path] = node;
    else Object.assign(out, flatten(node, isLeaf, path));
  }
  return out;
}

/** The inverse of `flatten`. */
export function unflatten<T>(flat: FlatTree<T>): Tree<T> {
  const root: Record<string, unknown> = {};
  for (const [path, value] of Object.entries(flat)) {
    const keys = path.split('.');
    let node = root;
    for (const key of keys.slice(0, -1)) {
      node[key] ??= {};
      node = node[key] as Record<string, unknown>;
    }
    node[keys[keys.length - 1] as string] = value;
  }
  return root as Tree<T>;
}

/**
 * The canonical order in which parameters are summed, hashed and listed: plain code-unit order of their paths. It does
 * not depend on the mesh, so whatever is reduced "over parameters" has the same bits everywhere.
 */
export function pathsInOrder(paths: Iterable<string>): string[] {
  return [...paths].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}
