/**
 * Arithmetic of updates: whole vectors of a model, in place. Loops of their own, over locals: inside of a method that awaits they took
 * five times as long.
 */

/** `values[i] *= factor`. */
export function scaleBy(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) * factor;
}

/** Euclidean norm, in double precision. */
export function normOf(values: Float32Array): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    squares += value * value;
  }
  return Math.sqrt(squares);
}
