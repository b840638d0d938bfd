/** What is fitted, and to what. */
export interface CalibrationData {
  /** Outputs of a row. */
  readonly width: number;
  /** The output that is right, by row. */
  readonly labels: readonly number[];
  /** Outputs that take part. */
  readonly over: readonly number[];
  /** Those of them that are scaled and shifted. */
  readonly changed: readonly number[];
}

/**
 * The scale and the shift of some outputs with which the mean cross entropy over all is least: Newton's method with halved steps, on a
 * function that is convex in both. A slight pull to 1 and 0 keeps them finite where the classes can be told apart without an error.
 */
export function fitScaleAndShift(
  logits: Float32Array,
  { width, labels, over, changed }: CalibrationData,
): { readonly scale: number; readonly shift: number } {
  const moving = new Set(changed);
  const pull = 1e-4;
  const at = (scale: number, shift: number) => {
    let [loss, gradScale, gradShift] = [0, 0, 0];
    let [scaleScale, scaleShift, shiftShift] = [0, 0, 0];
    for (const [row, label] of labels.entries()) {
      const raw = over.map((output) => logits[row * width + output] as number);
      const values = over.map((output, i) =>
        moving.has(output) ? scale * (raw[i] as number) + shift : (raw[i] as number),
      );
      const top = Math.max(...values);
      const exps = values.map((value) => Math.exp(value - top));
      const total = exps.reduce((sum, value) => sum + value, 0);
      let [first, second, mass] = [0, 0, 0];
      for (const [i, output] of over.entries()) {
        const probability = (exps[i] as number) / total;
        if (output === label) loss += Math.log(total) + top - (values[i] as number);
        if (!moving.has(output)) continue;
        const error = probability - (output === label ? 1 : 0);
        gradScale += error * (raw[i] as number);
        gradShift += error;
        mass += probability;
        first += probability * (raw[i] as number);
        second += probability * (raw[i] as number) ** 2;
      }
      scaleScale += second - first * first;
      scaleShift += first - first * mass;
      shiftShift += mass - mass * mass;
    }
    const count = labels.length;
    return {
      loss: loss / count + (pull / 2) * ((scale - 1) ** 2 + shift ** 2),
      gradient: [gradScale / count + pull * (scale - 1), gradShift / count + pull * shift] as const,
      hessian: [scaleScale / count + pull, scaleShift / count, shiftShift / count + pull] as const,
    };
  };
  let [scale, shift] = [1, 0];
  let now = at(scale, shift);
  for (let round = 0; round < 100; round++) {
    const [a, b, c] = now.hessian;
    const [g, h] = now.gradient;
    const determinant = a * c - b * b;
    const step = [(c * g - b * h) / determinant, (a * h - b * g) / determinant] as const;
    let size = 1;
    let next = at(scale - step[0], shift - step[1]);
    while (next.loss > now.loss && size > 1e-6) {
      size /= 2;
      next = at(scale - size * step[0], shift - size * step[1]);
    }
    if (next.loss >= now.loss) break;
    [scale, shift] = [scale - size * step[0], shift - size * step[1]];
    const gained = now.loss - next.loss;
    now = next;
    if (gained < 1e-12) break;
  }
  return { scale, shift };
}
