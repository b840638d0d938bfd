/** Steps of a run that belong together, as people are told of them: a task of a sequence, or what follows it. */
export interface Stretch {
  /** Completed steps at its end; it begins where the one before ends. */
  readonly until: number;
  /** What it is, for example `task 3/10`. */
  readonly text: string;
  /** Its steps only look at gradients; their loss is not what is learnt. */
  readonly observes?: true;
}

/** The stretch that a step is of, by the steps completed with it (from 1); null where nothing is known. */
export function stretchAt(stretches: readonly Stretch[], step: number): Stretch | null {
  return stretches.find(({ until }) => step <= until) ?? null;
}
