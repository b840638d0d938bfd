import type * as z from 'zod';
import type { ZodObject, ZodType } from 'zod';
import type { Partition } from '../../data/index.ts';
import type { Model, TaskInfo } from '../../modules/index.ts';
import type { Optimizer } from '../../optim/index.ts';
import type { VectorLayout } from '../local/index.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientFit, ClientReport } from './fit-task.ts';

/** What a server is made for. */
export interface ServerShape {
  /** Parameters, and module state, as vectors. */
  readonly params: VectorLayout;
  readonly state: VectorLayout;
  /** Registered clients. */
  readonly clients: number;
  readonly seed: number;
  /** The model and its task, where there is one: what strategies that look into it go by. */
  readonly model?: { readonly model: Model; readonly info: TaskInfo };
  /** What clients train with. Default: plain gradient descent. */
  readonly optimizer?: Pick<Optimizer, 'name' | 'pathLength'>;
}

/** One client's update and what it said. */
export interface ClientUpdate {
  /** Its parameters (then module state) minus those it began with. */
  readonly update: Float32Array;
  readonly report: ClientReport;
}

/** What a round of clients gave. */
export interface RoundOutcome {
  readonly round: number;
  /** Weighted sum of the updates over the clients that gave one; null where `needs` is `each`, or nobody did. */
  readonly sum: Float32Array | null;
  /** Sum of those clients' weights. */
  readonly weight: number;
  /** Clients that those who were asked were drawn from; absent: all registered ones. */
  readonly drawnFrom?: number;
  /** Updates one by one, where `needs` is `each`; else empty. */
  readonly updates: readonly ClientUpdate[];
  /** Of all clients that were asked and gave an update. */
  readonly reports: readonly ClientReport[];
  /** What each client kept before this round, by client and tensor name; absent tensors were zeros. */
  kept(client: number, name: string): Float32Array | null;
}

/** Bytes that went to clients and came from them. */
export interface Traffic {
  readonly down: number;
  readonly up: number;
}

/** A round before its clients train: who takes part, and a way to ask them things. */
export interface RoundQuestions {
  readonly round: number;
  readonly clients: readonly ClientFit[];
  /** Asks every client of the round; answers are in their order. `task` is the name of a client task. */
  ask(
    task: string,
    config: unknown,
    at: { readonly params: Float32Array; readonly state: Float32Array },
  ): Promise<unknown[]>;
  /**
   * Lets the clients train from here, as they do in a round, with these `round` tensors of the objective. The mean update of
   * parameters and module state, by weights; null if nobody gave one.
   */
  train(
    at: { readonly params: Float32Array; readonly state: Float32Array },
    tensors: Readonly<Record<string, Float32Array>>,
  ): Promise<Float32Array | null>;
  /** Mean loss of each client's own examples, modules in evaluation mode, in the clients' order. */
  losses(at: { readonly params: Float32Array; readonly state: Float32Array }): Promise<number[]>;
}

/**
 * The server's side of a federated strategy: turns a round of updates into new parameters. It may keep vectors of its own
 * from round to round, which are part of checkpoints.
 */
export interface FederatedServer {
  /** `sum`: only the weighted sum is needed, so that memory does not grow with the cohort. `each`: every update by itself. */
  readonly needs: 'sum' | 'each';
  /** Weight of a client's update, known before it is asked. Default: its number of examples. */
  weight?(client: { readonly examples: number; readonly steps: number }): number;
  /**
   * What `apply` looks at of single clients. `sum`: nothing but `sum` and `weight`. `reports`: also numbers of examples and steps.
   * Absent: anything. Differential privacy asks for the first, secure aggregation for either.
   */
  readonly sees?: 'sum' | 'reports';
  /** Norm to which clients clip their updates this round; null for no bound. */
  clipNorm?(): number | null;
  /** Standard deviation of the noise that a client adds to its clipped update; asked once a round for each client of it. */
  noise?(client: number): number | null;
  /** The local objective's `round` tensors. */
  round?(): Readonly<Record<string, Float32Array>>;
  /** Changes parameters (and module state) in place. */
  apply(outcome: RoundOutcome, params: Float32Array, state: Float32Array): void;
  /**
   * Asks the clients of a round something before they train, and may change parameters and module state by what they say.
   * Returns the bytes that it took. Not called where nobody takes part.
   */
  prepare?(questions: RoundQuestions, params: Float32Array, state: Float32Array): Promise<Traffic>;
  /**
   * Bytes of the round that was applied last, where they are not all parameters to everyone asked and back. `asked` clients
   * were sent the parameters.
   */
  traffic?(asked: number, reports: readonly ClientReport[]): Traffic;
  /** Names of kept tensors that it reads; of clients elsewhere nothing else is seen. */
  readonly reads?: readonly string[];
  /** Further figures of the last round, for its line of metrics. */
  metrics?(): Readonly<Record<string, number>>;
  /** Vectors to be kept in checkpoints, by name; `restore` takes them back. */
  readonly vectors?: Readonly<Record<string, Float32Array>>;
}

/** A training of rounds that has come to its end. */
export interface EndedRounds {
  readonly pool: FitPool;
  readonly params: Float32Array;
  readonly state: Float32Array;
  /** What clients train on, and what they are measured on. */
  readonly partition: Partition;
  readonly measured: Partition;
  readonly epochs: number;
  readonly rounds: number;
  readonly seed: number;
}

/** A setting that cannot be had, and what to change. */
export interface RefusedSetting {
  /** Of the `scheduler` section. */
  readonly key: string;
  readonly message: string;
}

/** A federated strategy that works in rounds, as a config names it. */
export interface FederatedStrategy<S extends ZodObject = ZodObject> {
  readonly name: string;
  /** Its own keys of the `scheduler` section. */
  readonly config: S;
  /** What clients do besides plain training: the name and settings of a local objective. */
  objective?(config: z.output<S>): { readonly name: string; readonly config: unknown };
  /** Training examples that all clients may see, set aside before the rest is shared out. Default none. */
  sharedExamples?(config: z.output<S>): number;
  /** Why it cannot work with a model, and what to change; null where it can. */
  unsuited?(config: z.output<S>, shape: ServerShape): string | null;
  /** What cannot be had with so many clients, of which a round asks `cohort` at most; null where all can. */
  refused?(config: z.output<S>, round: { readonly cohort: number; readonly clients: number }): RefusedSetting | null;
  /** What whoever starts a run should know of these settings: they can be had, and may not be what was meant; null for nothing. */
  caution?(config: z.output<S>, round: { readonly cohort: number }): string | null;
  server(config: z.output<S>, shape: ServerShape): FederatedServer;
  /** What is left to do with simulated clients after the last round: figures for summary.json. */
  finish?(config: z.output<S>, ended: EndedRounds): Promise<Readonly<Record<string, number>>>;
}

const registry = new Map<string, FederatedStrategy>();

/** Makes a strategy known to configs by its name. */
export function registerStrategy<S extends ZodObject>(strategy: FederatedStrategy<S>): void {
  registry.set(strategy.name, strategy as unknown as FederatedStrategy);
}

/** Registered strategies by name. */
export function federatedStrategies(): ReadonlyMap<string, FederatedStrategy> {
  return registry;
}

/** The mean update of an outcome: its sum divided by the weights. Null if nobody gave one. */
export function meanUpdate({ sum, weight }: RoundOutcome): Float32Array | null {
  if (!sum || weight <= 0) return null;
  const mean = new Float32Array(sum.length);
  // (Twice as quick as `map`, which calls a function for each number.)
  for (let i = 0; i < mean.length; i++) mean[i] = (sum[i] as number) / weight;
  return mean;
}

/** Adds the mean update of an outcome, as `meanUpdate` has it, to parameters and module state; nothing if nobody gave one. */
export function addMean({ sum, weight }: RoundOutcome, params: Float32Array, state: Float32Array, scale = 1): void {
  if (!sum || weight <= 0) return;
  for (let i = 0; i < params.length; i++)
    params[i] = (params[i] as number) + scale * Math.fround((sum[i] as number) / weight);
  for (let i = 0; i < state.length; i++)
    state[i] = (state[i] as number) + Math.fround((sum[params.length + i] as number) / weight);
}

/** Adds an update to parameters and module state, the parameters' part times `scale`. */
export function addUpdate(update: Float32Array, params: Float32Array, state: Float32Array, scale = 1): void {
  for (let i = 0; i < params.length; i++) params[i] = (params[i] as number) + scale * (update[i] as number);
  for (let i = 0; i < state.length; i++) state[i] = (state[i] as number) + (update[params.length + i] as number);
}

/** Settings of a strategy as its schema takes them. */
export type SettingsOf<S extends ZodType> = z.output<S>;
