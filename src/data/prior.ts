/**
 * Loss in nats of always predicting the class frequencies of the training labels (add-one smoothed), on validation
 * labels (those of `examples`, or all). Empty if there are none.
 */
export function priorLoss(
  train: ArrayLike<number>,
  validation: ArrayLike<number>,
  classes: number,
  examples?: Int32Array,
): Readonly<Record<string, number>> {
  const chosen = examples ?? Int32Array.from({ length: validation.length }, (_, i) => i);
  if (chosen.length === 0) return {};
  const counts = new Float64Array(classes).fill(1);
  for (let i = 0; i < train.length; i++) counts[train[i] as number] = (counts[train[i] as number] as number) + 1;
  const total = train.length + classes;
  const loss = chosen.reduce((sum, i) => sum - Math.log((counts[validation[i] as number] as number) / total), 0);
  return { prior: loss / chosen.length };
}
