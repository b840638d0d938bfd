import * as tf from '@tensorflow/tfjs-core';
import type { Optimizer, OptimizerPlan, ParamInfo, StepPhase } from './optimizer.ts';

type Tensor = tf.Tensor;

/** Steps whose phases go round in a cycle. */
export interface PhaseRun {
  readonly steps: number;
  readonly cycle: readonly StepPhase[];
  /** Schedules and bias corrections count from its first step on: what is trained there begins anew. */
  readonly restarts?: boolean;
}

/** What a rule is given of one parameter. All traced. */
export interface RuleGiven {
  readonly param: Tensor;
  readonly gradient: Tensor;
  /** The rule's own slots by name. */
  readonly slots: Readonly<Record<string, Tensor>>;
  /** The rule's numbers of this step, float32 scalars. */
  readonly numbers: readonly Tensor[];
  /** Learning rate of this step. */
  readonly lr: Tensor;
  readonly info: ParamInfo;
}

/**
 * What happens to each parameter besides the optimizer's update, as traced functions of that parameter alone, so that it
 * works on any mesh: penalties (as their gradients), importance of weights, masks, projections of gradients. Elastic weight
 * consolidation, synaptic intelligence, A-GEM and PackNet are rules. All members are optional.
 */
export interface ParamRule {
  readonly name: string;
  /** Names of float32 tensors kept for the parameter, each of its shape, zeros at first. Part of checkpoints. */
  slots?(info: ParamInfo): readonly string[];
  /**
   * What its functions go by of a parameter besides shape and slots (its path, say): those for which this and the optimizer's settings
   * are equal share compiled updates. Default: nothing.
   */
  variant?(info: ParamInfo): string;
  /** The gradient that the optimizer sees in a training step. */
  gradient?(given: RuleGiven): Tensor;
  /** The parameter after a training step, where it is not just what the optimizer made of it. */
  settle?(given: RuleGiven & { readonly updated: Tensor }): Tensor;
  /** New values of slots after a training step; those left out stay. */
  renew?(given: RuleGiven & { readonly updated: Tensor }): Readonly<Record<string, Tensor>>;
  /** New values of slots in an observing step. */
  observe?(given: RuleGiven): Readonly<Record<string, Tensor>>;
  /** Scalars that are summed over all parameters of the model before a training step updates any: inner products of gradients, say. */
  readonly sums?: {
    readonly count: number;
    of(given: Pick<RuleGiven, 'param' | 'gradient' | 'slots' | 'info'>): readonly Tensor[];
  };
  /** How many numbers a step has, and what they are; `sums` are totals in double precision, none in an observing step. Always as many. */
  readonly numbers?: { readonly count: number; of(sums: readonly number[], step: RuleStep): readonly number[] };
}

/** Where in a run a step is. */
export interface RuleStep {
  /** 0-based, observing steps included. */
  readonly step: number;
  readonly phase: StepPhase;
}

/** Phases of a run's steps. Steps past the end train. */
export class Phases {
  readonly #runs: readonly { readonly start: number; readonly trained: number; readonly run: PhaseRun }[];
  readonly #end: { readonly start: number; readonly trained: number };

  constructor(runs: readonly PhaseRun[]) {
    let [start, trained] = [0, 0];
    this.#runs = runs.map((run) => {
      if (run.restarts) trained = 0;
      const place = { start, trained, run };
      start += run.steps;
      trained += trainedOf(run, run.steps);
      return place;
    });
    this.#end = { start, trained };
  }

  /** StepPhase of a step (0-based). */
  at(step: number): StepPhase {
    const place = this.#find(step);
    return place ? phaseIn(place.run, step - place.start) : 'train';
  }

  /** Training steps before a step, since the last restart. */
  trainedBefore(step: number): number {
    const place = this.#find(step);
    if (!place) return this.#end.trained + step - this.#end.start;
    return place.trained + trainedOf(place.run, step - place.start);
  }

  #find(step: number) {
    return this.#runs.find(({ start, run }) => step >= start && step < start + run.steps);
  }
}

function phaseIn({ cycle }: PhaseRun, at: number): StepPhase {
  return cycle[at % cycle.length] ?? 'train';
}

/** Training steps among the first `count` of a run. */
function trainedOf(run: PhaseRun, count: number): number {
  const length = Math.max(1, run.cycle.length);
  const within = (n: number): number =>
    Array.from({ length: n }, (_, at) => phaseIn(run, at)).filter((phase) => phase === 'train').length;
  return Math.floor(count / length) * within(length) + within(count % length);
}

/**
 * An optimizer that follows a rule. Slots of both are kept side by side (`<rule>.<slot>` for the rule's); schedules and bias
 * corrections count training steps only.
 */
export function withRule(plan: OptimizerPlan, rule: ParamRule, runs: readonly PhaseRun[] = []): OptimizerPlan {
  const { optimizer } = plan;
  const phases = new Phases(runs);
  const own = (info: ParamInfo): readonly string[] => rule.slots?.(info) ?? [];
  const inner = optimizer.scalars(0, 1).length;
  const numbers = rule.numbers?.count ?? 0;
  const observes = rule.observe !== undefined && runs.some(({ cycle }) => cycle.includes('observe'));
  const ruled: Optimizer = {
    name: `${optimizer.name} with ${rule.name}`,
    slots: (info) => [...optimizer.slots(info), ...own(info).map((slot) => `${rule.name}.${slot}`)],
    // The rate and whether it trains come first; bias corrections of a step without training are never used.
    scalars: (lr, step) => [
      lr,
      phases.at(step - 1) === 'train' ? 1 : 0,
      ...optimizer.scalars(lr, phases.trainedBefore(step - 1) + 1),
    ],
    ...(rule.sums
      ? {
          sums: {
            count: rule.sums.count,
            at: (step) => phases.at(step - 1) === 'train',
            of: (param, gradient, slots, info) =>
              rule.sums?.of({ param, gradient, slots: named(own(info), slots.slice(-own(info).length)), info }) ?? [],
          },
        }
      : {}),
    ...(rule.numbers
      ? {
          numbers: {
            count: numbers,
            of: (sums, step) => rule.numbers?.of(sums, { step: step - 1, phase: phases.at(step - 1) }) ?? [],
          },
        }
      : {}),
    ...(observes ? { phaseAt: (step) => phases.at(step - 1) } : {}),
    ...(optimizer.pathLength ? { pathLength: optimizer.pathLength } : {}),
    groupKey: (info) => `${optimizer.groupKey(info)} ${rule.name}(${own(info).join(',')})${rule.variant?.(info) ?? ''}`,
    update(param, grad, slots, scalars, info, phase) {
      const names = own(info);
      const innerSlots = slots.slice(0, slots.length - names.length);
      const kept = named(names, slots.slice(innerSlots.length));
      const [lr, trains] = scalars as readonly [Tensor, Tensor];
      const given: RuleGiven = {
        param,
        gradient: grad,
        slots: kept,
        numbers: scalars.slice(2 + inner, 2 + inner + numbers),
        lr,
        info,
      };
      const seen = observes ? { ...kept, ...rule.observe?.(given) } : kept;
      const instead = [param, ...innerSlots, ...names.map((name) => seen[name] as Tensor)];
      if (observes && phase === 'observe') return instead;
      const [stepped, ...innerNext] = optimizer.update(
        param,
        rule.gradient?.(given) ?? grad,
        innerSlots,
        scalars.slice(2, 2 + inner),
        info,
      ) as readonly [Tensor, ...Tensor[]];
      const updated = rule.settle?.({ ...given, updated: stepped }) ?? stepped;
      const renewed = { ...kept, ...rule.renew?.({ ...given, updated }) };
      const after = [updated, ...innerNext, ...names.map((name) => renewed[name] as Tensor)];
      if (!observes || phase === 'train') return after;
      const training = tf.greater(trains, 0.5);
      return after.map((value, i) => (value === instead[i] ? value : tf.where(training, value, instead[i] as Tensor)));
    },
  };
  return { ...plan, optimizer: ruled, lrAt: (step) => plan.lrAt(phases.trainedBefore(step)) };
}

function named(names: readonly string[], tensors: readonly Tensor[]): Record<string, Tensor> {
  return Object.fromEntries(names.map((name, i) => [name, tensors[i] as Tensor]));
}
