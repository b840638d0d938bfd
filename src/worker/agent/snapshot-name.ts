/** Blob of the snapshot that a rank of a generation has taken after so many completed steps. */
export function snapshotName(generation: number, rank: number, step: number): string {
  return `snapshot-${generation}-${rank}-${step}`;
}
