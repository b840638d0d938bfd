/** Edit distance in which a swap of neighbours counts as one edit (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((row[j - 1] as number) + 1, (previous[j] as number) + 1, (previous[j - 1] as number) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] as number) + 1);
      row.push(best);
    }
    before = previous;
    previous = row;
  }
  return previous[b.length] as number;
}

const plain = (text: string): string => text.toLowerCase().replace(/[-_\s]/g, '');

/**
 * The candidate that `word` was most likely meant to be, or null if nothing is near. Case, dashes and underscores do
 * not count; a candidate that contains the word (or the other way round) is near as well.
 */
export function nearest(word: string, candidates: Iterable<string>): string | null {
  const target = plain(word);
  let best: string | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const other = plain(candidate);
    let d = distance(target, other);
    const [short, long] = target.length < other.length ? [target, other] : [other, target];
    if (short.length >= 3 && long.includes(short)) d = Math.min(d, 1.5);
    if (d < bestDistance) {
      best = candidate;
      bestDistance = d;
    }
  }
  const allowed = Math.max(1, Math.min(3, target.length * 0.4));
  return bestDistance <= Math.max(allowed, 1.5) && bestDistance < target.length ? best : null;
}

/** `did you mean 'x'? Known: a, b, x` (the first part only where something is near). */
export function suggestion(word: string, candidates: readonly string[], what: string): string {
  const near = nearest(word, candidates);
  const list = `${what}: ${candidates.join(', ')}`;
  return near === null ? list : `did you mean '${near}'? ${list}`;
}
