/** How much of something is done. */
export interface Underway {
  readonly done: number;
  readonly of: number;
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
