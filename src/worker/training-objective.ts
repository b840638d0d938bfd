import type { Dataset } from '../data/index.ts';
import type { Model } from '../modules/index.ts';
import type { OptimizerPlan, ParamInfo } from '../optim/index.ts';

/** A parameter as a transition sees it: values that it may change in place. */
export interface TransitionParam {
  readonly info: ParamInfo;
  readonly value: Float32Array;
  /** Slots of the optimizer and of its rule, by name. */
  readonly slots: Readonly<Record<string, Float32Array>>;
}

/**
 * Changes a parameter and its slots between two steps, on the host: the end of a task, say. Called for each parameter by
 * itself, on every rank that holds it, so it must depend on what it is given alone. What it returns goes to whoever asked for the
 * transition: numbers, strings, typed arrays (copies of them: `value` and `slots` are overwritten later).
 */
export interface Transition {
  (param: TransitionParam, args: unknown): unknown;
  /** Whether it leaves slots alone, so that it can be done where other replicas keep them. */
  readonly valuesOnly?: true;
}

/** What a transition has returned for each parameter, by path; only of those for which it returned something. */
export type TransitionAnswers = Readonly<Record<string, unknown>>;

/**
 * What a scheduler changes about what ranks do in a step. Whoever prepares a run and every rank make the same one from the
 * same plain data, so that they agree about parameters, slots and targets.
 */
export interface TrainingObjective {
  /** The model with another loss, or with modules around its own. Paths of parameters that stay must not change. */
  model?(model: Model, dataset: Dataset): Model;
  optimizer?(plan: OptimizerPlan): OptimizerPlan;
  /**
   * How many examples of each microbatch a step computes, its first ones, where it is not all (null): losses and weights of the step's
   * examples must be for so many. The same for every rank.
   */
  rows?(step: number): number | null;
  /** By name. */
  readonly transitions?: Readonly<Record<string, Transition>>;
}

/** An objective as plain data. */
export interface ObjectiveSection {
  /** Of a registered maker. */
  readonly name: string;
  readonly config: unknown;
}

type Maker = (config: unknown) => TrainingObjective;

const makers = new Map<string, Maker>();

/** Makes a kind of objective known to the ranks of this thread. */
export function registerTrainingObjective(name: string, make: Maker): void {
  makers.set(name, make);
}

/** @throws Error if this thread has not loaded what registers it */
export function trainingObjective({ name, config }: ObjectiveSection): TrainingObjective {
  const make = makers.get(name);
  if (!make)
    throw new Error(
      `this worker does not know the training objective "${name}" (known: ${[...makers.keys()].join(', ') || 'none'}): ` +
        'it was started by another entry than the one of the scheduler that uses it',
    );
  return make(config);
}
