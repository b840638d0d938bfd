/** A test for parameter paths: `*` stands for any characters, dots included, `?` for one; the whole path must match. */
export function pathMatcher(pattern: string): (path: string) => boolean {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  const regex = new RegExp(`^${source}$`, 's');
  return (path) => regex.test(path);
}
