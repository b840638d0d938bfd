import { float32, int32 } from '../tensor/index.ts';
import type { Batch, Dataset, PreparedData, Split, SplitName } from './dataset.ts';
import { checkIndices } from './indices.ts';
import { priorLoss } from './prior.ts';
import { type SharedArray, view } from './shared-array.ts';

/** How a column becomes features: (value - shift) / scale, or one-hot over `values`. `index` is its place in the file. */
export type ColumnEncoding =
  | {
      readonly kind: 'number';
      readonly name: string;
      readonly index: number;
      readonly shift: number;
      readonly scale: number;
      readonly fill: number;
    }
  | { readonly kind: 'category'; readonly name: string; readonly index: number; readonly values: readonly string[] };

/** What is predicted: the number in a column, or which of `values` is there. */
export type LabelEncoding =
  | { readonly kind: 'number'; readonly name: string }
  | { readonly kind: 'classes'; readonly name: string; readonly values: readonly string[] };

/** A table in shared memory: float32 features, int32 class numbers or float32 labels. */
export interface PreparedTable extends PreparedData {
  readonly kind: 'table';
  readonly name: string;
  readonly columns: readonly ColumnEncoding[];
  readonly label: LabelEncoding;
  readonly splits: Readonly<Record<SplitName, { readonly features: SharedArray; readonly labels: SharedArray }>>;
}

/** Opens a prepared table. Inputs are float32 `[features]`, targets int32 class numbers or float32 `[1]`. */
export function openTable(data: PreparedTable): Dataset {
  const width = data.info.inputs[0]?.shape[0] as number;
  const classes = data.info.classes;
  const labelsOf = (name: SplitName) => {
    const { labels } = data.splits[name];
    return labels.dtype === 'int32' ? view(labels, 'int32') : view(labels, 'float32');
  };
  const split = (name: SplitName): Split => {
    const features = view(data.splits[name].features, 'float32');
    const labels = labelsOf(name);
    return {
      name,
      examples: labels.length,
      ...(classes === undefined ? {} : { labels }),
      batch(indices): Batch {
        checkIndices(indices, labels.length, `${data.name} ${name}`);
        const rows = new Float32Array(indices.length * width);
        for (const [i, index] of indices.entries())
          rows.set(features.subarray(index * width, (index + 1) * width), i * width);
        const values = Array.from(indices, (index) => labels[index] as number);
        const targets = classes === undefined ? float32(values, [indices.length, 1]) : int32(values, [indices.length]);
        return { inputs: [float32(rows, [indices.length, width])], targets: [targets] };
      },
    };
  };
  return {
    name: data.name,
    info: data.info,
    tokensPerExample: 1,
    split,
    baselines(examples) {
      const validation = labelsOf('validation');
      return classes === undefined
        ? meanLoss(labelsOf('train'), validation, examples)
        : priorLoss(labelsOf('train'), validation, classes, examples);
    },
  };
}

/** Mean squared error of always predicting the mean training label. */
function meanLoss(
  train: ArrayLike<number>,
  validation: ArrayLike<number>,
  examples?: Int32Array,
): Readonly<Record<string, number>> {
  const chosen = examples ?? Int32Array.from({ length: validation.length }, (_, i) => i);
  if (chosen.length === 0) return {};
  const mean = Array.from(train).reduce((a, b) => a + b, 0) / train.length;
  return { mean: chosen.reduce((sum, i) => sum + ((validation[i] as number) - mean) ** 2, 0) / chosen.length };
}
