import { InvalidArgumentError } from 'commander';

/** Collects a flag that may be repeated. */
export const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];

/** A whole number between two bounds. */
export function wholeNumber(minimum: number, maximum = Number.MAX_SAFE_INTEGER): (text: string) => number {
  const range = maximum === Number.MAX_SAFE_INTEGER ? `of at least ${minimum}` : `from ${minimum} to ${maximum}`;
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < minimum || value > maximum)
      throw new InvalidArgumentError(`expected a whole number ${range}.`);
    return value;
  };
}

/** A number of at least `minimum`. */
export function decimal(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < minimum)
      throw new InvalidArgumentError(`expected a number of at least ${minimum}.`);
    return value;
  };
}

/** `auto`, or how many slots. */
export function slotCount(text: string): number | 'auto' {
  if (text === 'auto') return text;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 1024)
    throw new InvalidArgumentError("expected a whole number from 1 to 1024, or 'auto'.");
  return value;
}
