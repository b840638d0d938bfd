import type { ScenarioConfig } from './schema.ts';

type NaturalStream = Extract<ScenarioConfig['stream'], { name: 'natural' }>;

/** Whose each example is, by a key that the data itself has. */
export interface ExampleKeys {
  readonly train: readonly string[];
  readonly evaluation: readonly string[];
}

/** Which task has the examples of a key, and how many tasks there are. */
export interface KeyTasks {
  readonly tasks: number;
  /** -1 for a key that no task has. */
  taskOf(key: string): number;
}

/**
 * Makes tasks of keys: as listed, or by bounds of a number, or in order so that tasks have about as many training examples each.
 * @throws RangeError if bounds are given for keys that are not numbers
 */
export function keyTasks({ key, tasks, bounds, values }: NaturalStream, { train, evaluation }: ExampleKeys): KeyTasks {
  if (values) {
    const places = new Map(values.flatMap((list, task) => list.map((value): [string, number] => [value, task])));
    return { tasks: values.length, taskOf: (value) => places.get(value) ?? -1 };
  }
  if (bounds) {
    const other = [...train, ...evaluation].find((value) => !Number.isFinite(Number(value)));
    if (other !== undefined)
      throw new RangeError(`stream.bounds are for keys that are numbers, but ${key} has '${other}'; use stream.values`);
    const sorted = [...bounds].sort((a, b) => a - b);
    return {
      tasks: sorted.length + 1,
      taskOf: (value) => sorted.filter((bound) => Number(value) >= bound).length,
    };
  }
  const counts = new Map<string, number>();
  for (const value of train) counts.set(value, (counts.get(value) ?? 0) + 1);
  const inOrder = [...counts.keys()];
  if (inOrder.every((value) => Number.isFinite(Number(value)))) inOrder.sort((a, b) => Number(a) - Number(b));
  const places = new Map<string, number>();
  let before = 0;
  for (const value of inOrder) {
    const count = counts.get(value) as number;
    // By the middle of its examples.
    places.set(value, Math.min(tasks - 1, Math.floor(((before + count / 2) / train.length) * tasks)));
    before += count;
  }
  return { tasks, taskOf: (value) => places.get(value) ?? -1 };
}
