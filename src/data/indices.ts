/** @throws RangeError naming the first example index that is not in [0, examples). */
export function checkIndices(indices: Int32Array, examples: number, where: string): void {
  for (const index of indices)
    if (index < 0 || index >= examples)
      throw new RangeError(
        examples === 0
          ? `${where} has no examples; give data.${where.split(' ').at(-1)} a fraction above 0`
          : `${where} has no example ${index}; indices are 0 to ${examples - 1}`,
      );
}
