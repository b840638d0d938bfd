import { float32, type HostTensor, int32 } from '../../tensor/index.ts';
import type { Batch, Dataset, PreparedData, Split, SplitName } from '../dataset.ts';
import { checkIndices } from '../indices.ts';
import { type SharedArray, view } from '../shared-array.ts';
import { applyView, type PreparedViews } from './views.ts';

/** A target that a stream adds to those of its dataset: one value of this shape for each position. */
export interface StreamTarget {
  readonly name: string;
  readonly dtype: 'float32' | 'int32';
  /** Without the batch dimension. */
  readonly shape: readonly number[];
}

/**
 * Values of a stream's target: `values` has rows of the target's size, `rows` says which of them each position has; where
 * that is null, position p has row p.
 */
export interface StreamValues {
  readonly values: SharedArray;
  readonly rows: SharedArray | null;
}

/** One part of a stream. All arrays have an element a position, in the order in which training goes. */
export interface StreamPart {
  /** The part of the base dataset that examples are taken from. */
  readonly from: SplitName;
  /** int32: example of the base, or from its number of examples on, of `made`. */
  readonly examples: SharedArray;
  /** int32: class in place of the base's; null for the base's own. */
  readonly labels: SharedArray | null;
  /** int32: which of the views its input is seen through; null for none. */
  readonly views: SharedArray | null;
  /** By name of the added target. */
  readonly targets: Readonly<Record<string, StreamValues>>;
}

/**
 * Examples of another dataset in a fixed order, with further targets: what a task sequence trains on. Plain data in shared
 * memory, so whoever makes it can still fill in values that are only known later (a teacher's outputs, say) between steps.
 */
export interface PreparedStream extends PreparedData {
  readonly kind: 'stream';
  readonly base: PreparedData;
  readonly targets: readonly StreamTarget[];
  readonly parts: Readonly<Record<SplitName, StreamPart>>;
  readonly views: PreparedViews | null;
  /** float32 inputs that are not of the base (drawn by a generator, say), one behind the other; null for none. */
  readonly made: SharedArray | null;
}

/** Opens a stream over its opened base. The training part is `ordered`: position p is the p-th example of the run. */
export function openStream(data: PreparedStream, base: Dataset): Dataset {
  return {
    name: base.name,
    info: data.info,
    modelInfo: { ...data.info, targets: data.info.targets.slice(0, base.info.targets.length) },
    tokensPerExample: base.tokensPerExample,
    split: (name) => openPart(data, name, base.split(data.parts[name].from)),
    baselines: () => ({}),
  };
}

function openPart(data: PreparedStream, name: SplitName, base: Split): Split {
  const part = data.parts[name];
  const examples = view(part.examples, 'int32');
  const labels = part.labels && view(part.labels, 'int32');
  const views = part.views && view(part.views, 'int32');
  const made = data.made && view(data.made, 'float32');
  const sources = data.targets.map((target) => ({ target, values: part.targets[target.name] ?? null }));
  return {
    name,
    examples: examples.length,
    ...(name === 'train' ? { ordered: true as const } : {}),
    ...(labels ? { labels } : {}),
    batch(positions): Batch {
      checkIndices(positions, examples.length, `${data.base.kind} stream ${name}`);
      const chosen = Int32Array.from(positions, (position) => examples[position] as number);
      // A made example stands in for one of the base, whose input is then written over.
      const batch = base.batch(chosen.map((example) => (example < base.examples ? example : 0)));
      const [input, ...others] = batch.inputs as readonly [HostTensor, ...HostTensor[]];
      if (made) fillMade(input, chosen, base.examples, made);
      if (views && data.views)
        applyView(
          data.views,
          input.data as Float32Array,
          Int32Array.from(positions, (p) => views[p] as number),
        );
      const [own, ...rest] = batch.targets as readonly [HostTensor, ...HostTensor[]];
      const first = labels
        ? int32(
            Int32Array.from(positions, (p) => labels[p] as number),
            own.shape,
          )
        : own;
      const added = sources.map(({ target, values }) => gather(target, values, positions));
      return { inputs: [input, ...others], targets: [first, ...rest, ...added] };
    },
  };
}

function fillMade(input: HostTensor, chosen: Int32Array, first: number, made: Float32Array): void {
  const size = input.data.length / chosen.length;
  chosen.forEach((example, at) => {
    if (example >= first)
      (input.data as Float32Array).set(
        made.subarray((example - first) * size, (example - first + 1) * size),
        at * size,
      );
  });
}

/** Values of a target at these positions; zeros where the part has none. */
function gather(target: StreamTarget, given: StreamValues | null, positions: Int32Array): HostTensor {
  const size = target.shape.reduce((product, dim) => product * dim, 1);
  const shape = [positions.length, ...target.shape];
  const float = target.dtype === 'float32';
  const out = float ? new Float32Array(positions.length * size) : new Int32Array(positions.length * size);
  if (given) {
    const values = float ? view(given.values, 'float32') : view(given.values, 'int32');
    const rows = given.rows && view(given.rows, 'int32');
    positions.forEach((position, at) => {
      const row = rows ? (rows[position] as number) : position;
      for (let i = 0; i < size; i++) out[at * size + i] = values[row * size + i] as number;
    });
  }
  return float ? float32(out as Float32Array, shape) : int32(out as Int32Array, shape);
}
