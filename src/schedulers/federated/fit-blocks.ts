/** Clients that one task trains at most: a power of two, so that a task is a node of the tree over the cohort. */
const LARGEST = 32;

/** Sums of clients' updates that a task holds at a time: one for each level of the tree over its clients, and one more. */
export const TASK_VECTORS = Math.log2(LARGEST) + 2;

/**
 * How many clients each task of a cohort has: large ones first, so that there are few messages, small ones last, so that no thread
 * waits long for the others (guided self-scheduling: Polychronopoulos and Kuck, 1987). Each is a node of the canonical tree over the
 * cohort; what is summed does not depend on how it is cut.
 */
export function taskSizes(cohort: number, threads: number): number[] {
  const sizes: number[] = [];
  for (let at = 0; at < cohort; at += sizes.at(-1) as number) {
    const share = Math.max(1, (cohort - at) / threads);
    const size = Math.min(LARGEST, 2 ** Math.floor(Math.log2(share)), sizes.at(-1) ?? LARGEST);
    sizes.push(Math.min(size, cohort - at));
  }
  return sizes;
}
