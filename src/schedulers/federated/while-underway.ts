import type { Underway } from '../../coordinator/index.ts';

/** How far clients are that a pool begins with now. */
export function countTrained(pool: { readonly trained: number }, of: number): () => Underway {
  const before = pool.trained;
  return () => ({ done: pool.trained - before, of });
}

/** Milliseconds between two looks. */
const LOOK_MS = 2_000;

/** Looks, every two seconds until `work` has ended, at how much of it is done; work that is over sooner is never looked at. */
export async function* whileUnderway(
  work: Promise<unknown>,
  look: () => Underway | null,
): AsyncGenerator<Underway, void> {
  const over = work.then(
    () => true,
    () => true,
  );
  for (;;) {
    let timer: NodeJS.Timeout | undefined;
    const time = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, LOOK_MS, false);
    });
    const ended = await Promise.race([over, time]);
    clearTimeout(timer);
    if (ended) return;
    const found = look();
    if (found) yield found;
  }
}
