import type { ZodObject } from 'zod';
import * as z from 'zod';
import type { Dataset, StreamTarget } from '../../data/index.ts';
import type { tf } from '../../engine/index.ts';
import type { Model, StateSpec } from '../../modules/index.ts';
import type { ParamRule } from '../../optim/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import type { Transition, TransitionAnswers } from '../../worker/index.ts';
import type { Pause } from './built-stream.ts';
import type { ModuleDrift } from './drift.ts';
import type { Scenario, ScenarioShape } from './scenario.ts';
import type { StreamBuilder } from './stream-builder.ts';

type Tensor = tf.Tensor;

/** What a strategy's loss is given. All traced. */
export interface LossGiven {
  /** float32 `[micro, outputs]`. */
  readonly logits: Tensor;
  /** int32 `[micro]`: the output that is right. */
  readonly labels: Tensor;
  /** float32 `[micro]`; the mean over a step is 1. */
  readonly weights: Tensor;
  /** float32 `[micro, outputs]`: 0, or a large negative number for outputs that take no part. */
  readonly mask: Tensor;
  /** The strategy's own targets by name. */
  readonly targets: Readonly<Record<string, Tensor>>;
  /** float32 `[micro, width]`: what the last layer classifies by, where the strategy's model shows it (`withFeatures`). */
  readonly features?: Tensor;
  /** The loss's own state by name, as it was before the step. */
  readonly state: Readonly<Record<string, Tensor>>;
  /** Adds to the loss's own state (`StateSpec.update` says what becomes of it). */
  contribute(name: string, value: Tensor): void;
}

/** A loss in place of the masked cross entropy. */
export interface StrategyLoss {
  readonly state?: Readonly<Record<string, StateSpec>>;
  /** A float32 scalar: the mean over the microbatch. */
  of(given: LossGiven): Tensor;
}

/** What of a stream's builder is a strategy's. */
export type StepBuilder = Pick<
  StreamBuilder,
  'steps' | 'reserve' | 'step' | 'restart' | 'pause' | 'remember' | 'endTask'
>;

/** What a strategy is given to decide what is seen when. */
export interface ComposeGiven {
  readonly scenario: Scenario;
  readonly dataset: Dataset;
  readonly builder: StepBuilder;
  /** Passes over each task's examples. */
  readonly epochs: number;
  /** Examples of a step. */
  readonly global: number;
  readonly seed: number;
}

/** Where tasks begin and end in a run: plain data that every rank knows. */
export interface Course {
  /** Completed steps at the end of each task. */
  readonly ends: readonly number[];
  readonly pauses: readonly Pause[];
  /** Passes over each task's examples. */
  readonly epochs: number;
}

/** What a strategy can do where a task begins or ends. */
export interface TaskEnd {
  /** Of the task, from 0. */
  readonly task: number;
  readonly scenario: Scenario;
  readonly dataset: Dataset;
  /** The model as the ranks train it: which modules and parameters it has, at which paths. */
  readonly model: Model;
  /** Changes all parameters and their slots by one of the strategy's transitions; what it says of each parameter, by path. */
  transition(name: string, args: unknown): Promise<TransitionAnswers>;
  /** All parameters as they are, by path: copies. */
  parameters(): Promise<Readonly<Record<string, Float32Array>>>;
  /** Gives parameters other values, by path; those that are not named stay. */
  setParameters(values: Readonly<Record<string, Float32Array>>): Promise<void>;
  /** Logits for training examples as the present task sees them: float32 `[examples, outputs]`. By stream position. */
  predict(positions: Int32Array, metrics?: readonly string[]): Promise<Readonly<Record<string, Float32Array>>>;
  /** What is at each position of the training stream: numbers of the dataset's examples, or of made ones. */
  readonly examples: Int32Array;
  /** The row that each position has of one of the strategy's targets that are filled in. */
  rows(target: string): Int32Array;
  /** First and end position of a task in the training stream. */
  positions(task: number): { readonly from: number; readonly to: number };
  /** Writes rows of one of the strategy's targets that are filled in while the run goes on. They are part of checkpoints. */
  fill(target: string, firstRow: number, values: Float32Array): void;
  /** Gives made examples (`StreamBuilder.reserve`) their inputs, from this one on. Part of checkpoints. */
  make(firstExample: number, inputs: Float32Array): void;
  /** Keeps tensors for later and for checkpoints; `kept` finds them again. */
  keep(name: string, tensor: HostTensor): void;
  kept(name: string): HostTensor | null;
  /** How much each module has changed so far, the one that changes most between tasks first. */
  drift(): readonly ModuleDrift[];
}

/**
 * A continual-learning strategy, as `scheduler.strategy.name` names it: what is seen when (`compose`), what is learnt from it
 * (`loss`, `rule`, `model`), and what happens when a task ends. Everything traced sees one microbatch or one parameter at a
 * time, so each strategy runs on any mesh. All parts but name and config are optional: without any it is naive fine-tuning.
 */
export interface ContinualStrategy<S extends ZodObject = ZodObject> {
  readonly name: string;
  /** Whether it also works where nobody says when tasks change (`scenario.gradual`). */
  readonly taskFree?: true;
  /** Whether it also works where examples have no class: for text, whose tokens are then what its loss sees as examples. */
  readonly languageModels?: true;
  /** Its own keys of `scheduler.strategy`. */
  readonly config: S;
  /** Whether it must know how wide the features are (`ScenarioShape.features`, else null). */
  readonly features?: true;
  /** Targets that its loss wants besides weights and masks. */
  targets?(config: z.output<S>, shape: ScenarioShape): readonly StreamTarget[];
  /** Decides all steps. Default: each task's examples in a new order every epoch. */
  compose?(given: ComposeGiven, config: z.output<S>): void;
  /**
   * Examples that a training step can have at most, where they are fewer than batch.global: of the others, which then fill steps up, few
   * or none are computed. Steps that only look at gradients have whole batches.
   */
  trained?(config: z.output<S>, global: number): number;
  loss?(config: z.output<S>, shape: ScenarioShape): StrategyLoss;
  rule?(config: z.output<S>, shape: ScenarioShape, course: Course): ParamRule;
  model?(model: Model, config: z.output<S>, shape: ScenarioShape, dataset: Dataset): Model;
  transitions?(config: z.output<S>, shape: ScenarioShape): Readonly<Record<string, Transition>>;
  /** Called before the first step of each task; waited for. */
  beforeTask?(start: TaskEnd, config: z.output<S>): unknown;
  /** Called where `StreamBuilder.pause` said so, before the step after it; waited for. `name` is what the pause was called. */
  atPause?(at: TaskEnd, name: string, config: z.output<S>): unknown;
  /** Called after the last step of each task, before it is evaluated; waited for. */
  afterTask?(end: TaskEnd, config: z.output<S>): unknown;
  /**
   * Called before the examples of a task are classified, where the task is known, and with null when all have been: shows the model as it
   * is for that task (its mask, its column), by transitions that `null` takes back.
   */
  showTask?(shown: TaskEnd, task: number | null, config: z.output<S>): unknown;
  /**
   * What the answer for each example is, in place of the largest of the allowed outputs. `rows`: what is predicted of the examples
   * (`outputs` and what `metrics` names), `allowed` the outputs of the tasks so far, or of the example's own where it is known.
   */
  readonly classify?: {
    readonly metrics: readonly string[];
    answers(
      rows: Readonly<Record<string, Float32Array>>,
      allowed: readonly number[],
      kept: (name: string) => HostTensor | null,
    ): Int32Array;
  };
}

/** A strategy that is made of another one: `strategy: {name: fpf, base: {name: ewc}}`. */
export interface StrategyAround<S extends ZodObject = ZodObject> {
  readonly name: string;
  /** Called once all strategies are known: `strategySchema` gives what a base can be. */
  config(): S;
  /** The strategy that a config stands for, and the config that its members are given: the base's. */
  around(config: z.output<S>): ResolvedStrategy;
}

/** A strategy and the keys that its members are given. */
export interface ResolvedStrategy {
  readonly strategy: ContinualStrategy;
  readonly config: Readonly<Record<string, unknown>>;
}

/** What a config says of a strategy: its name and its own keys. */
export interface StrategySection {
  readonly name: string;
  readonly [key: string]: unknown;
}

const registry = new Map<string, ContinualStrategy>();
const arounds = new Map<string, StrategyAround>();

/** Makes a strategy known to configs by its name. */
export function registerContinual<S extends ZodObject>(strategy: ContinualStrategy<S>): void {
  registry.set(strategy.name, strategy as unknown as ContinualStrategy);
}

/** The same for one that is made of another. */
export function registerAround<S extends ZodObject>(strategy: StrategyAround<S>): void {
  arounds.set(strategy.name, strategy as unknown as StrategyAround);
}

/** Names of all strategies, those that are made of others too. */
export function continualNames(): string[] {
  return [...registry.keys(), ...arounds.keys()];
}

/** Schema of a strategy that is not made of another. */
export function strategySchema() {
  return unionOf([...registry.values()].map(({ name, config }) => ({ name, shape: config.shape })));
}

/** Schema of `scheduler.strategy`. */
export function anyStrategySchema() {
  const made = [...arounds.values()].map(({ name, config }) => ({ name, shape: config().shape }));
  return unionOf([...[...registry.values()].map(({ name, config }) => ({ name, shape: config.shape })), ...made]);
}

function unionOf(given: readonly { readonly name: string; readonly shape: ZodObject['shape'] }[]) {
  const options = given.map(({ name, shape }) =>
    z.strictObject({ name: z.literal(name).describe('continual-learning strategy'), ...shape }),
  );
  const [first, ...rest] = options;
  if (!first) throw new Error('no continual strategy is registered');
  return z.discriminatedUnion('name', [first, ...rest]);
}

/** The strategy that a config asks for. @throws Error naming the strategies that there are */
export function resolvedStrategy({ name, ...config }: StrategySection): ResolvedStrategy {
  return arounds.get(name)?.around(config) ?? { strategy: continualStrategy(name), config };
}

/** Registered strategies by name. */
export function continualStrategies(): ReadonlyMap<string, ContinualStrategy> {
  return registry;
}

/** @throws Error naming the strategies that there are */
export function continualStrategy(name: string): ContinualStrategy {
  const found = registry.get(name);
  if (!found) throw new Error(`there is no continual strategy "${name}"; known: ${[...registry.keys()].join(', ')}`);
  return found;
}
