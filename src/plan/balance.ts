import { PlanError } from './errors.ts';
import type { ParallelOptions } from './schema.ts';

/**
 * Cuts a sequence into `stages` non-empty contiguous runs so that the largest sum is as small as possible, and among
 * such cuts the sum of squares is (so that what is left over is spread evenly). Dynamic programming, O(stages * n^2).
 * @returns the indices of each run
 */
export function balance(costs: readonly number[], stages: number): number[][] {
  const n = costs.length;
  if (stages < 1 || stages > n)
    throw new PlanError(`${n} layers cannot be cut into ${stages} stages: every stage needs a layer`);
  const prefix = [0];
  for (const cost of costs) prefix.push((prefix[prefix.length - 1] as number) + cost);
  const sum = (from: number, to: number) => (prefix[to] as number) - (prefix[from] as number);
  const limit = best(n, stages, (value, from, to) => Math.max(value, sum(from, to))).value;
  // A hair of slack: the same sums are formed along other ways here.
  const cap = limit * (1 + 1e-12);
  const { cuts } = best(n, stages, (value, from, to) => {
    const cost = sum(from, to);
    return cost > cap ? Number.POSITIVE_INFINITY : value + cost * cost;
  });
  return cuts.slice(0, -1).map((from, i) => Array.from({ length: (cuts[i + 1] as number) - from }, (_, k) => from + k));
}

/** Least value over all ways to cut `[0, n)` into `stages` runs, where `extend` adds the run `[from, to)` to a value. */
function best(n: number, stages: number, extend: (value: number, from: number, to: number) => number) {
  let row = new Float64Array(n + 1).fill(Number.POSITIVE_INFINITY);
  row[0] = 0;
  const from: Int32Array[] = [];
  for (let stage = 1; stage <= stages; stage++) {
    const next = new Float64Array(n + 1).fill(Number.POSITIVE_INFINITY);
    const choice = new Int32Array(n + 1).fill(stage - 1);
    for (let to = stage; to <= n - (stages - stage); to++)
      for (let cut = stage - 1; cut < to; cut++) {
        if (row[cut] === Number.POSITIVE_INFINITY) continue;
        const value = extend(row[cut] as number, cut, to);
        if (value < (next[to] as number)) {
          next[to] = value;
          choice[to] = cut;
        }
      }
    row = next;
    from.push(choice);
  }
  const cuts = [n];
  for (let stage = stages - 1; stage >= 0; stage--)
    cuts.unshift((from[stage] as Int32Array)[cuts[0] as number] as number);
  return { value: row[n] as number, cuts };
}

/**
 * Stages set by hand: each entry is a number of layers, or patterns of layer names. In a pattern `*` stands for any
 * text and `a..b` for the whole numbers from a to b.
 * @throws PlanError if the entries do not cover every layer once and in order
 */
export function manualStages(
  names: readonly string[],
  entries: Exclude<ParallelOptions['stages'], 'auto'>,
  stages: number,
): number[][] {
  if (entries.length !== stages)
    throw new PlanError(
      `parallel.stages must have one entry for each stage, but has ${entries.length} entries for ${stages} stages (parallel.pipeline * chunks): add or remove entries, or write stages: auto`,
    );
  let next = 0;
  const out: number[][] = [];
  for (const [index, entry] of entries.entries()) {
    const layers: number[] = [];
    if (typeof entry === 'number') {
      for (let i = 0; i < entry; i++) layers.push(next + i);
      if (next + entry > names.length)
        throw new PlanError(
          `parallel.stages[${index}] takes ${entry} layers, but only ${names.length - next} of the model's ${names.length} are left: the counts must add up to ${names.length}`,
        );
    } else {
      const patterns = (typeof entry === 'string' ? [entry] : entry).map((text) => ({
        text,
        test: layerPattern(text),
      }));
      for (const { text, test } of patterns)
        if (!names.some((name) => test(name)))
          throw new PlanError(
            `parallel.stages[${index}]: no layer is called "${text}"; the layers are ${names.join(', ')}`,
          );
      names.forEach((name, i) => {
        if (patterns.some(({ test }) => test(name))) layers.push(i);
      });
      layers.forEach((layer, i) => {
        if (layer === next + i) return;
        const expected = names[next + i];
        throw new PlanError(
          `parallel.stages[${index}] holds the layer "${names[layer]}", but ${expected ? `"${expected}" comes next` : 'all layers are taken'}: a stage is a run of consecutive layers, each in one stage`,
        );
      });
    }
    next += layers.length;
    out.push(layers);
  }
  if (next < names.length)
    throw new PlanError(
      `parallel.stages leaves out the layers ${names.slice(next).join(', ')}: every layer must be in a stage`,
    );
  return out;
}

/** A test for layer names: `*` matches any text, `2..5` the whole numbers 2 to 5. */
export function layerPattern(pattern: string): (name: string) => boolean {
  const ranges: [number, number][] = [];
  const source = pattern
    .split(/(\d+\.\.\d+|\*)/)
    .map((piece) => {
      if (piece === '*') return '.*';
      const range = /^(\d+)\.\.(\d+)$/.exec(piece);
      if (!range) return piece.replace(/[.+?^${}()|[\]\\]/g, '\\$&');
      ranges.push([Number(range[1]), Number(range[2])]);
      return '(\\d+)';
    })
    .join('');
  const expression = new RegExp(`^${source}$`);
  return (name) => {
    const found = expression.exec(name);
    return (
      found !== null && ranges.every(([low, high], i) => Number(found[i + 1]) >= low && Number(found[i + 1]) <= high)
    );
  };
}
