import type { ZodType } from 'zod';
import * as z from 'zod';
import type { Dataset, PreparedData } from '../data/index.ts';
import type { OptimConfig } from '../optim/index.ts';
import type { ObjectiveSection } from '../worker/index.ts';
import type { Config, Finding, ResolvedConfig } from './config/index.ts';
import type { RunEvent } from './events.ts';
import type { Execution } from './execution.ts';
import type { Metrics } from './metrics.ts';
import type { MeasureSession, Session } from './session.ts';
import type { Stretch } from './stretch.ts';

/**
 * A training strategy: decides rounds, tasks, who trains what, how results are combined. `config` describes its own
 * keys of the `scheduler` section (without `name`); `run` drives a session to the end and yields what happened.
 */
export interface Scheduler<C = unknown> {
  readonly name: string;
  readonly config: ZodType<C>;
  run(session: Session, config: C): AsyncIterable<RunEvent>;
  /** What is wrong between its own keys and others of the config. */
  check?(config: Config, own: C): readonly Finding[];
  /** For strategies whose data ranks take steps of their own, with an exchange only now and then. */
  local?(config: C): LocalRounds;
  /**
   * For strategies that decide which examples are seen when, or what else happens in a step: called once the data is there,
   * before the model is built. Null where it decides nothing.
   */
  prepare?(given: PrepareGiven, config: C): Promise<SchedulerPlan> | SchedulerPlan | null;
  /** The module that worker threads run, where it must know more than the worker room: objectives. */
  entry?(): URL;
  /**
   * For strategies whose model is not measured on a split as a whole (a sequence of tasks): measures a checkpoint for
   * `plexus eval`. Only with `prepare`, whose data is then what is measured on.
   */
  measure?(session: MeasureSession, config: C): Promise<Measured>;
  /**
   * For strategies whose work is not that of ranks of a mesh (federated clients): is given the run before any rank is launched,
   * in place of `run`, and yields all of its events from then on.
   */
  alone?(execution: Execution, config: C): AsyncGenerator<RunEvent, void>;
}

/** What a scheduler says of a checkpoint. */
export interface Measured {
  /** Mean loss of an example; null where none is measured. */
  readonly loss: number | null;
  readonly metrics: Metrics;
}

/** What a scheduler's preparation is given. */
export interface PrepareGiven {
  readonly config: ResolvedConfig;
  readonly data: PreparedData;
  readonly dataset: Dataset;
}

/** What a scheduler has decided before the workers start. */
export interface SchedulerPlan {
  /** What ranks train and evaluate on, in place of the data as it is. */
  readonly data: PreparedData;
  /** Steps of the run, in place of `train.steps`. */
  readonly steps: number;
  /** What ranks do in a step besides. */
  readonly objective?: ObjectiveSection;
  /** What the steps are, for people who watch; nothing where all are alike. */
  readonly stretches?: readonly Stretch[];
  /** For the scheduler's own use: `Session.plan`. */
  readonly plan: unknown;
}

/** Steps that each data rank takes by itself. */
export interface LocalRounds {
  /** Steps between two exchanges. */
  readonly every: number;
  /** The optimizer of the averaged changes. */
  readonly optim: OptimConfig;
}

/** The `scheduler` section of a config: the strategy's name and its own keys. */
export type SchedulerSection = { readonly name: string; readonly [key: string]: unknown };

const DEFAULT_SCHEDULER = 'sync';
const registry = new Map<string, Scheduler>();

/** Makes a scheduler known to configs by its name. The built-in ones are registered by importing the schedulers room. */
export function registerScheduler<C>(scheduler: Scheduler<C>): void {
  registry.set(scheduler.name, scheduler as Scheduler<unknown>);
}

/** Names of the registered schedulers. */
export function schedulerNames(): string[] {
  return [...registry.keys()];
}

/** @throws Error if no scheduler of that name is registered, with the known names. */
export function schedulerNamed(name: string): Scheduler {
  const found = registry.get(name);
  if (!found)
    throw new Error(
      `there is no scheduler '${name}'; known: ${schedulerNames().join(', ') || "none (import 'plexus/schedulers' to register the built-in ones)"}`,
    );
  return found;
}

/** Schema of the `scheduler` section: `name` and the keys of the scheduler of that name. */
export function schedulerSchema(): ZodType<SchedulerSection> {
  const options = [...registry.values()].map((scheduler) => {
    const own = scheduler.config instanceof z.ZodObject ? scheduler.config.shape : {};
    return z.strictObject({ name: z.literal(scheduler.name).describe('training strategy'), ...own });
  });
  const [first, ...rest] = options;
  if (!first) throw new Error("no scheduler is registered: import 'plexus/schedulers' first");
  const named = (value: unknown): unknown =>
    typeof value === 'object' && value !== null && !('name' in value) ? { name: DEFAULT_SCHEDULER, ...value } : value;
  return z
    .preprocess(named, z.discriminatedUnion('name', [first, ...rest]))
    .prefault({ name: DEFAULT_SCHEDULER }) as unknown as ZodType<SchedulerSection>;
}
