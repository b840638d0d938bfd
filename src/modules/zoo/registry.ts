import * as z from 'zod';
import { describeNames } from '../errors.ts';
import { cnn } from './cnn.ts';
import type { ZooEntry } from './entry.ts';
import { mlpModel } from './mlp.ts';
import { moeMlp } from './moe-mlp.ts';
import { gruLm, lstmLm } from './recurrent-lm.ts';
import { spikingMlp } from './spiking-mlp.ts';
import { tfjsLayersModel } from './tfjs-layers-model.ts';
import { transformerLm } from './transformer-lm.ts';

/** Every model that a config can name. Adding one means adding its file and a line here. */
export const zoo: Readonly<Record<string, ZooEntry>> = Object.fromEntries(
  (
    [
      transformerLm,
      lstmLm,
      gruLm,
      mlpModel,
      moeMlp,
      spikingMlp,
      cnn,
      tfjsLayersModel,
    ] as readonly unknown[] as readonly ZooEntry[]
  ).map((entry) => [entry.name, entry]),
);

/** A model by name with all arguments filled in, or by file. Plain data. */
export type ModelConfig =
  | { readonly name: string; readonly args: Readonly<Record<string, unknown>> }
  | { readonly file: string; readonly args: Readonly<Record<string, unknown>> };

/**
 * The `model` section of a config: `name` (of the zoo) or `file` (a TypeScript or JavaScript file that exports `model` or
 * `module`), and `args`. A zoo model's arguments are checked against its schema and filled with its defaults; issues
 * carry the path `args.<key>`.
 */
export const modelSchema = z
  .strictObject({
    name: z
      .string()
      .optional()
      .describe(`A model of the zoo: ${Object.keys(zoo).join(', ')}`),
    file: z.string().optional().describe('A .ts or .js file that exports `model(args, info)` or `module(args, info)`'),
    args: z.record(z.string(), z.unknown()).default({}).describe('Arguments of the model'),
  })
  .transform((value, ctx): ModelConfig => {
    const { name, file, args } = value;
    if ((name === undefined) === (file === undefined)) {
      ctx.addIssue({ code: 'custom', message: 'a model has either a `name` (of the zoo) or a `file`', input: value });
      return z.NEVER;
    }
    if (file !== undefined) return { file, args };
    const entry = Object.hasOwn(zoo, name as string) ? zoo[name as string] : undefined;
    if (!entry) {
      const message = `there is no model "${name}" in the zoo; ${describeNames(name as string, Object.keys(zoo))}`;
      ctx.addIssue({ code: 'custom', path: ['name'], message, input: name });
      return z.NEVER;
    }
    const parsed = entry.schema.safeParse(args);
    if (parsed.success) return { name: entry.name, args: parsed.data as Record<string, unknown> };
    for (const issue of parsed.error.issues)
      ctx.issues.push({ ...issue, path: ['args', ...issue.path], input: args } as never);
    return z.NEVER;
  });
