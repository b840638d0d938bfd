import * as z from 'zod';
import { readConfig } from '../../../coordinator/index.ts';
import { DataError } from '../../../data/index.ts';
import { zoo } from '../../../modules/index.ts';
import { objectiveNames } from '../../local/index.ts';
import { clientTaskNames } from '../tasks/index.ts';
import { ClientRefusal } from './errors.ts';

const names = z.array(z.string().min(1)).nullable().default(null);

/** What a client lets itself be asked: the keys of an `--allow` file. */
export const allowSchema = z.strictObject({
  models: names.describe('models of the zoo, by name; null: all but those that read files'),
  objectives: names.describe('local objectives, by name; null: all that are built in'),
  tasks: names.describe('questions about the data besides training, by name; null: all that are built in; []: none'),
  max_parameters: z.int().min(1).default(50_000_000).describe('parameters of a model at most'),
  max_epochs: z.int().min(1).default(50).describe('passes over its examples in a round at most'),
  max_batch: z.int().min(1).default(4096).describe('examples of a local step at most'),
  max_rounds: z.int().min(1).default(100_000).describe('rounds of one run that it trains in at most'),
  min_examples: z
    .int()
    .min(1)
    .default(2)
    .describe('examples that it must have: the fewer, the more an update tells of each'),
  secure_aggregation: z
    .boolean()
    .default(false)
    .describe('whether it takes part only where updates are masked, so that the server sees sums alone'),
  min_neighbours: z
    .int()
    .min(2)
    .max(254)
    .default(2)
    .describe('other clients that it shares masks with at least, where updates are masked'),
  min_noise: z
    .number()
    .nonnegative()
    .default(0)
    .describe(
      'noise that it adds to its update at least (`local-dp`), in multiples of the norm that the update is clipped to',
    ),
  one_class: z.boolean().default(false).describe('whether it takes part with examples of one class only'),
});

/** What a client lets itself be asked. */
export type AllowList = z.output<typeof allowSchema>;

/** The allow-list without a file. */
export const defaultAllowList = (): AllowList => allowSchema.parse({});

/** Reads an allow-list. @throws ConfigError naming line, key and the nearest valid one */
export function readAllowList(file: string): AllowList {
  return readConfig(allowSchema, file).values;
}

/** Models that would read files of this machine by a path that the server names. */
const READS_FILES: ReadonlySet<string> = new Set(['tfjs-layers']);

/** Checks what a run asks of its clients. @throws ClientRefusal naming what, and what is allowed */
export function checkJob(
  allow: AllowList,
  job: {
    readonly model: { readonly name: string };
    readonly objective: { readonly name: string };
    readonly batch: number;
    readonly secure: boolean;
  },
): void {
  if (allow.secure_aggregation && !job.secure)
    throw new ClientRefusal(
      'updates would go to the server as they are, and the allow-list wants them masked (secure_aggregation)',
    );
  const models = allow.models ?? Object.keys(zoo).filter((name) => !READS_FILES.has(name));
  oneOf(job.model.name, models, 'the model', 'models');
  oneOf(job.objective.name, allow.objectives ?? objectiveNames(), 'the local objective', 'objectives');
  atMost(job.batch, allow.max_batch, 'a batch of', 'max_batch');
}

/** Checks a model that was built. @throws ClientRefusal */
export function checkModelSize(allow: AllowList, parameters: number): void {
  atMost(parameters, allow.max_parameters, 'a model with so many parameters:', 'max_parameters');
}

/** Checks one fit. @throws ClientRefusal */
export function checkFit(
  allow: AllowList,
  fit: {
    readonly epochs: number;
    readonly round: number;
    readonly clipNorm: number | null;
    readonly noise?: number | null;
  },
): void {
  const noise = fit.clipNorm === null ? 0 : (fit.noise ?? 0) / fit.clipNorm;
  // (A part in a million for what dividing may lose.)
  if (noise < allow.min_noise * (1 - 1e-6))
    throw new ClientRefusal(
      `its update would be under noise of ${noise.toPrecision(3)} times the norm it is clipped to, and the allow-list wants ${allow.min_noise} (min_noise)`,
    );
  atMost(fit.epochs, allow.max_epochs, 'local epochs:', 'max_epochs');
  atMost(fit.round + 1, allow.max_rounds, 'rounds:', 'max_rounds');
}

/** Checks a question. @throws ClientRefusal */
export function checkTask(allow: AllowList, task: string): void {
  oneOf(task, allow.tasks ?? clientTaskNames(), 'the question', 'tasks');
}

/** What clients keep that is not personal, by objective: what its strategy's server adds up. */
const NOT_PERSONAL: Readonly<Record<string, readonly string[]>> = { 'control-variates': ['own'] };

/** Checks what a server wants to see of what a client keeps. @throws ClientRefusal */
export function checkWanted(objective: string, wanted: readonly string[]): void {
  const personal = wanted.find((name) => !NOT_PERSONAL[objective]?.includes(name));
  if (personal !== undefined) throw new ClientRefusal(`"${personal}" is this client's own, and stays here`);
}

/**
 * Checks the client's own examples. `classes`: how many different classes there are among them; null without classes.
 * @throws DataError
 */
export function checkExamples(
  allow: AllowList,
  data: { readonly examples: number; readonly classes: number | null },
): void {
  if (data.examples === 0) throw new DataError('there are no examples to train on');
  if (data.examples < allow.min_examples)
    throw new DataError(
      `there are only ${data.examples} examples to train on, fewer than the ${allow.min_examples} that the allow-list wants (min_examples)`,
    );
  if (data.classes === 1 && !allow.one_class)
    throw new DataError(
      'all examples are of one class, so that an update would tell which; allow it with `one_class: true` in the file of --allow',
    );
}

function oneOf(name: string, known: readonly string[], what: string, key: string): void {
  if (!known.includes(name))
    throw new ClientRefusal(`${what} "${name}" is not on the allow-list (${key}: ${known.join(', ') || 'none'})`);
}

function atMost(value: number, limit: number, what: string, key: string): void {
  if (value > limit) throw new ClientRefusal(`${what} ${value} is more than the allow-list's ${key} ${limit}`);
}
