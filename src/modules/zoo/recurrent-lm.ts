import * as z from 'zod';
import type { Layer, Module } from '../module.ts';
import { sequential } from '../nn/combinators.ts';
import { dropout } from '../nn/dropout.ts';
import { embedding } from '../nn/embedding.ts';
import { linear } from '../nn/linear.ts';
import { crossEntropy } from '../nn/loss.ts';
import { gru, lstm } from '../nn/recurrent.ts';
import { textTask, zooEntry } from './entry.ts';

const schema = z.strictObject({
  layers: z.number().int().positive().default(1).describe('Number of recurrent layers'),
  dim: z.number().int().positive().default(64).describe('Width of the token embedding'),
  hidden: z.number().int().positive().default(128).describe('Width of the recurrent state'),
  dropout: z.number().min(0).lt(1).default(0).describe('Dropout after each recurrent layer'),
});

/** A language model of stacked LSTM layers. */
export const lstmLm = recurrentLm('lstm-lm', 'LSTM language model', lstm);

/** A language model of stacked GRU layers. */
export const gruLm = recurrentLm('gru-lm', 'GRU language model', gru);

function recurrentLm(name: string, summary: string, cell: (inputs: number, hidden: number) => Module) {
  return zooEntry({
    name,
    summary,
    schema,
    build(args, info) {
      const { vocab } = textTask(name, info);
      const layers: Layer[] = [
        { name: 'embed', module: embedding(vocab, args.dim) },
        ...Array.from({ length: args.layers }, (_, i) => ({
          name: `blocks.${i}`,
          module: sequential({
            cell: cell(i === 0 ? args.dim : args.hidden, args.hidden),
            ...(args.dropout > 0 ? { dropout: dropout(args.dropout) } : {}),
          }),
        })),
        { name: 'head', module: linear(args.hidden, vocab) },
      ];
      return { model: { layers, loss: crossEntropy({ accuracy: 'evaluation' }) }, warnings: [] };
    },
  });
}
