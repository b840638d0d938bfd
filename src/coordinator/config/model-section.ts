import type { ZodType } from 'zod';
import * as z from 'zod';
import { type ModelConfig, zoo } from '../../modules/index.ts';

/**
 * The `model` section: `{name, args}` for a model of the zoo, whose arguments have their own keys and docstrings, or
 * `{file, args}` for a TypeScript or JavaScript file.
 */
export function modelSection(): ZodType<ModelConfig> {
  const named = Object.values(zoo).map((entry) =>
    z.strictObject({
      name: z.literal(entry.name).describe(entry.summary),
      args: withDefault(entry.schema as ZodType<Record<string, unknown>>).describe('arguments of the model'),
    }),
  );
  const fromFile = z.strictObject({
    name: z.undefined().optional(),
    file: z
      .string()
      .min(1)
      .describe(
        `TypeScript or JavaScript file that exports \`model\` or \`module\`, a function of (args, info); in place of a name (${Object.keys(zoo).join(', ')})`,
      ),
    args: z.record(z.string(), z.unknown()).default({}).describe('given to that function'),
  });
  const sections = z.discriminatedUnion('name', [fromFile, ...named]);
  return (sections as unknown as ZodType<ModelConfig>)
    .prefault({ name: 'transformer-lm', args: {} })
    .describe('what to train');
}

/** Arguments may be left out where all of them have defaults. */
function withDefault<T extends object>(schema: ZodType<T>): ZodType<T> {
  return schema.safeParse({}).success ? (schema.prefault({} as never) as ZodType<T>) : schema;
}
