/** Clients that one task trains at most: a power of two, so that a task is a node of the tree over the cohort. */
const LARGEST = 32;

/** Sums of clients' updates that a task holds at a time: one for each level of the tree over its clients, and one more. */
export const TASK_VECTORS = Math.log2(LARGEST) + 2;

/**
 * How many clients each task of a cohort has: large ones first, so that there are few messages, small ones last, so that no thread
 * waits long for the others. Sizes shrink after a task for every thread, not before: the next task is at a thread before it has
 * ended the last one, and with a larger one would keep it longer than the others (factoring: Hummel, Schonberg and Flynn, 1992).
 * Each is a node of the canonical tree over the cohort; what is summed does not depend on how it is cut.
 */
export function taskSizes(cohort: number, threads: number): number[] {
  const sizes: number[] = [];
  let size = LARGEST;
  for (let at = 0; at < cohort; at += sizes.at(-1) as number) {
    if (sizes.length % threads === 0) {
      const share = Math.max(1, (cohort - at) / (threads === 1 ? 1 : 1.5 * threads));
      size = Math.min(size, 2 ** Math.floor(Math.log2(share)));
    }
    sizes.push(Math.min(size, cohort - at));
  }
  return sizes;
}
