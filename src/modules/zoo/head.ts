import * as z from 'zod';
import type { Module, TaskInfo } from '../module.ts';
import { cosineClassifier, etfClassifier } from '../nn/etf.ts';
import { type LinearOptions, linear } from '../nn/linear.ts';

const temperature = z.number().positive().default(10).describe('Factor of the cosines at the start; it is learned');

/** The last layer of a classifier, as a model's arguments choose it. */
export const headSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('linear').describe('linear') }),
    z.strictObject({ kind: z.literal('cosine').describe('cosines with learned directions'), temperature }),
    z.strictObject({
      kind: z.literal('etf').describe('cosines with fixed directions that are as far apart as can be'),
      dim: z.number().int().positive().nullable().default(null).describe('Width of the projection; null: as before it'),
      temperature,
      trainable: z.boolean().default(false).describe('Train the directions too'),
    }),
  ])
  .prefault({ kind: 'linear' })
  .describe('The last layer');

/** Settings of the last layer. */
export type HeadArgs = z.output<typeof headSchema>;

/**
 * Makes the last layer. @throws Error if the task has no classes, which the cosine heads need
 */
export function classifierHead(
  name: string,
  head: HeadArgs,
  { inputs, outputs }: { readonly inputs: number; readonly outputs: number },
  info: TaskInfo,
  options: LinearOptions = {},
): Module {
  if (head.kind === 'linear') return linear(inputs, outputs, options);
  if (info.classes === undefined)
    throw new Error(`model ${name}: head.kind ${head.kind} tells classes apart, and the dataset has none; use linear`);
  if (head.kind === 'cosine') return cosineClassifier(inputs, outputs, { temperature: head.temperature });
  const { dim, trainable } = head;
  if (dim !== null && dim < outputs)
    throw new Error(
      `model ${name}: head.dim is ${dim}, but ${outputs} directions equally far apart need at least ${outputs} dimensions`,
    );
  return etfClassifier(inputs, outputs, {
    temperature: head.temperature,
    trainable,
    ...(dim === null ? {} : { dim }),
  });
}
