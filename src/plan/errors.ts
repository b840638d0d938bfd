/** A mesh, batch, schedule or program that cannot work. The message states the constraint, the values and the fix. */
export class PlanError extends Error {
  override readonly name: string = 'PlanError';
}
