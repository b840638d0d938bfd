import type { TaskInfo } from '../modules/index.ts';
import { int32 } from '../tensor/index.ts';
import { textBaselines } from './baselines.ts';
import type { Batch, Dataset, PreparedData, Split, SplitName } from './dataset.ts';
import { checkIndices } from './indices.ts';
import { type SharedArray, view } from './shared-array.ts';
import type { TokenizerJSON } from './tokenizer.ts';

/** Tokenised text in shared memory. */
export interface PreparedText extends PreparedData {
  readonly kind: 'text';
  readonly name: string;
  readonly context: number;
  /** Tokens between the starts of training examples; other splits never overlap. */
  readonly stride: number;
  readonly tokenizer: TokenizerJSON;
  readonly tokens: Readonly<Record<SplitName, SharedArray>>;
}

/** What a language model sees of text: windows of token ids, and the same shifted by one as targets. */
export function textInfo(context: number, vocabSize: number): TaskInfo {
  const window = { dtype: 'int32', shape: [context] } as const;
  return { inputs: [window], targets: [window], vocabSize };
}

/** Number of windows of `context` tokens and their targets that fit. */
export function windowCount(tokens: number, context: number, stride: number): number {
  return tokens < context + 1 ? 0 : Math.floor((tokens - context - 1) / stride) + 1;
}

/** Opens prepared text. */
export function openText(data: PreparedText): Dataset {
  const { context, info } = data;
  const vocab = info.vocabSize as number;
  const tokensOf = (name: SplitName) => {
    const array = data.tokens[name];
    return array.dtype === 'uint16' ? view(array, 'uint16') : view(array, 'int32');
  };
  const strideOf = (name: SplitName) => (name === 'train' ? data.stride : context);
  const split = (name: SplitName): Split => {
    const tokens = tokensOf(name);
    const stride = strideOf(name);
    const examples = windowCount(tokens.length, context, stride);
    return {
      name,
      examples,
      batch(indices): Batch {
        checkIndices(indices, examples, `${data.name} ${name}`);
        const inputs = new Int32Array(indices.length * context);
        const targets = new Int32Array(indices.length * context);
        for (const [row, index] of indices.entries()) {
          const start = index * stride;
          inputs.set(tokens.subarray(start, start + context), row * context);
          targets.set(tokens.subarray(start + 1, start + context + 1), row * context);
        }
        const shape = [indices.length, context];
        return { inputs: [int32(inputs, shape)], targets: [int32(targets, shape)] };
      },
    };
  };
  return {
    name: data.name,
    info,
    tokensPerExample: context,
    split,
    baselines(examples) {
      const tokens = tokensOf('validation');
      const all = windowCount(tokens.length, context, context);
      if (all === 0) return {};
      const chosen = examples ?? Int32Array.from({ length: all }, (_, i) => i);
      checkIndices(chosen, all, `${data.name} validation`);
      return { ...textBaselines(tokensOf('train'), vocab, { tokens, context, stride: context }, chosen) };
    },
  };
}
