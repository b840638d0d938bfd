import * as z from 'zod';
import { readConfig } from '../../../coordinator/index.ts';
import { DataError } from '../../../data/index.ts';
import { zoo } from '../../../modules/index.ts';
import { objectiveNames } from '../../local/index.ts';
import { clientTaskNames } from '../tasks/index.ts';
import { type ClientAccount, epsilonGiven, fitsIn, withFit } from './client-account.ts';
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
  max_rounds: z.int().min(1).default(100_000).describe('rounds (or fits) of one run that it answers at most'),
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
  max_epsilon: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe(
      'what all that it ever answers may tell of its examples (differential privacy, by its own account); null: no bound. With one it answers under noise only',
    ),
  delta: z.number().gt(0).lt(1).default(1e-5).describe('delta of `max_epsilon`'),
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
    readonly batch: number | null;
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
  if (job.batch !== null) atMost(job.batch, allow.max_batch, 'a batch of', 'max_batch');
}

/** Checks a model that was built. @throws ClientRefusal */
export function checkModelSize(allow: AllowList, parameters: number): void {
  atMost(parameters, allow.max_parameters, 'a model with so many parameters:', 'max_parameters');
}

/** A fit, as far as the allow-list looks at it. */
export interface AskedFit {
  readonly epochs: number;
  readonly clipNorm: number | null;
  readonly noise?: number | null;
}

/** Noise on the update of a fit, in multiples of the norm that it is clipped to; 0 for none. */
export function noiseOf({ clipNorm, noise }: Pick<AskedFit, 'clipNorm' | 'noise'>): number {
  return clipNorm === null ? 0 : (noise ?? 0) / clipNorm;
}

/**
 * Checks one fit of a run.
 * @param account what the client has answered so far
 * @throws ClientRefusal
 */
export function checkFit(allow: AllowList, fit: AskedFit, account: ClientAccount, run: string): void {
  const noise = noiseOf(fit);
  // (A part in a million for what dividing may lose.)
  if (noise < allow.min_noise * (1 - 1e-6))
    throw new ClientRefusal(
      `its update would be under noise of ${noise.toPrecision(3)} times the norm it is clipped to, and the allow-list wants ${allow.min_noise} (min_noise)`,
    );
  atMost(fit.epochs, allow.max_epochs, 'local epochs:', 'max_epochs');
  atMost(fitsIn(account, run) + 1, allow.max_rounds, 'rounds:', 'max_rounds');
  const { max_epsilon: most, delta } = allow;
  if (most === null) return;
  if (account.bare > 0)
    throw new ClientRefusal(
      `it has answered ${account.bare} fits under no noise before, which no epsilon bounds, and the allow-list has max_epsilon`,
    );
  const epsilon = epsilonGiven(withFit(account, run, noise), delta);
  if (epsilon > most)
    throw new ClientRefusal(
      `all that it has answered would tell epsilon ${epsilon.toPrecision(4)} of its examples (delta ${delta}), and the allow-list's max_epsilon is ${most}`,
    );
}

/** Where answers are to be under noise, those that are not are not given. @throws ClientRefusal */
export function checkBare({ min_noise: noise, max_epsilon: most }: AllowList, what: string): void {
  if (noise > 0 || most !== null)
    throw new ClientRefusal(`${what} would be under no noise, and the allow-list has min_noise or max_epsilon`);
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
 * @param batch examples of a local step; null for all of them
 * @throws DataError; ClientRefusal where all of them are too many for a step
 */
export function checkExamples(
  allow: AllowList,
  data: { readonly examples: number; readonly classes: number | null },
  batch: number | null = 1,
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
  if (batch === null) atMost(data.examples, allow.max_batch, 'a batch of all examples:', 'max_batch');
}

function oneOf(name: string, known: readonly string[], what: string, key: string): void {
  if (!known.includes(name))
    throw new ClientRefusal(`${what} "${name}" is not on the allow-list (${key}: ${known.join(', ') || 'none'})`);
}

function atMost(value: number, limit: number, what: string, key: string): void {
  if (value > limit) throw new ClientRefusal(`${what} ${value} is more than the allow-list's ${key} ${limit}`);
}
