/**
 * Counter-based random numbers on the host, keyed by names and numbers rather than by a position in a stream, so that a
 * draw does not depend on which rank makes it or what was drawn before.
 */
export interface Rng {
  /** A generator for a named or numbered purpose, independent of this one and of its other children. */
  fork(...keys: readonly (string | number)[]): Rng;
  /** The next 32 random bits. */
  uint32(): number;
  /** Uniform in [0, 1), 24 bits of resolution, exactly representable in float32. */
  uniform(): number;
  /** Standard normal (Box-Muller). */
  normal(): number;
  /** Uniform integer in [0, bound). */
  integer(bound: number): number;
}
