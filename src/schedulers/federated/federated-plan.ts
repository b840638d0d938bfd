import type { Execution, Underway } from '../../coordinator/index.ts';
import type { Partition } from '../../data/index.ts';
import type { HostTensor, LazyTensor } from '../../tensor/index.ts';
import type { ClientFigures } from './client-metrics.ts';
import type { KeptVectors } from './client-store.ts';
import type { UpdateCompression } from './compression.ts';
import type { ContinualJob } from './continual/index.ts';
import type { FitPool } from './fit-pool.ts';
import type { EvaluateReport, SharedStart } from './fit-task.ts';
import type { RunSettings } from './round-schema.ts';
import type { FederatedStep } from './run-record.ts';
import type { Layouts, SavedTensors } from './saved-tensors.ts';

/** Keys that all federated runs have, whether they work in rounds or not. */
export interface FederatedConfig extends RunSettings {
  readonly clients: number;
  readonly local_batch: number | null;
  readonly threads: number;
  /** Where there are rounds: how updates are written as fewer bytes. */
  readonly compression?: UpdateCompression;
}

/** What a federated training is made of. */
export interface FederatedParts {
  readonly execution: Execution;
  readonly pool: FitPool;
  readonly partition: Partition;
  /** What clients are measured on: what they hold out, or else what they train on. */
  readonly measured: Partition;
  readonly layouts: Layouts;
  readonly seed: number;
  /** Parameters and module state to begin with: drawn from the seed, or the checkpoint's. The training's own from now on. */
  readonly params: Float32Array;
  readonly state: Float32Array;
  /** Completed steps. */
  readonly step: number;
  /** Simulated seconds that they took. */
  readonly seconds: number;
  /** The checkpoint that the run goes on from; open until the training is made. */
  readonly saved: SavedTensors | null;
}

/** A way of training clients together, step by step. Everything in it is a function of the seed and what `tensors` gives. */
export interface FederatedTraining {
  /** Makes the next step; null if it was stopped before there was one. @throws RoundsFailed where there is no way to go on */
  next(): Promise<FederatedStep | null>;
  /** How far `next` is; null where that is not known. */
  underway?(): Underway | null;
  /** What is evaluated and what a run ends with. */
  model(): { readonly params: Float32Array; readonly state: Float32Array };
  /** Measures the model in place of a look at the whole split: where not all of it is to be known yet. */
  evaluate?(start: SharedStart): Promise<EvaluateReport>;
  /** How the model does for single clients, where they are not simulated; null if nobody says. Absent: they are looked at here. */
  figures?(): Promise<ClientFigures | null>;
  /** What a client keeps, where that can make a model of its own. */
  kept?(client: number): KeptVectors;
  /**
   * What going on needs besides the model, by name. Names must not begin with `param/`, `state/` or `run/`. What is fetched only when
   * it is written is fetched before the next step.
   */
  tensors(): Readonly<Record<string, HostTensor | LazyTensor>>;
  /** What it adds to summary.json. */
  summary?(): Readonly<Record<string, unknown>> | Promise<Readonly<Record<string, unknown>>>;
  /** Waits for what is under way and lets go of everything; the pool is still open. */
  close?(): Promise<void>;
}

/** How a federated run is made: what its clients do, and who tells them when. */
export interface FederatedPlan {
  /** Clients that train in a step, for whoever watches. */
  readonly width: number;
  readonly objective: { readonly name: string; readonly config: unknown };
  /** What is said before it begins; null or absent for nothing. */
  readonly caution?: string | null;
  /** What a step is called. */
  readonly steps?: 'rounds' | 'versions';
  /** Whether clients elsewhere can take the place of simulated ones. */
  readonly remote?: boolean;
  /** The sequence of tasks that clients learn, if there is one. */
  readonly continual?: ContinualJob;
  make(parts: FederatedParts): Promise<FederatedTraining>;
}
