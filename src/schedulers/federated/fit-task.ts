import type { PreparedData, SplitName } from '../../data/index.ts';
import type { EngineOptions } from '../../engine/index.ts';
import type { ClientAttack } from './attack.ts';
import type { UpdateCompression } from './compression.ts';
import type { ClientTasks, ContinualJob } from './continual/job.ts';
import type { FeatureShiftConfig } from './round-schema.ts';

/** What a thread needs to train clients of a run: plain data, given once. */
export interface FitJob {
  readonly seed: number;
  /** The resolved `model` and `optim` sections. */
  readonly model: unknown;
  readonly optim: unknown;
  readonly data: PreparedData;
  readonly engine: EngineOptions;
  /** What happens near the data: an objective's name and settings, as `objectiveNamed` takes them. */
  readonly objective: { readonly name: string; readonly config: unknown };
  /** Examples of a local step. The last step of an epoch has what is left. */
  readonly batch: number;
  /** Examples of the training split that all clients may see; what is set aside for strategies that ask for it. */
  readonly shared?: Int32Array | null;
  /** How updates are written as fewer bytes. Default: as they are. */
  readonly compression?: UpdateCompression;
  /** How what clients see differs. Default: not at all. */
  readonly shift?: FeatureShiftConfig;
  /** The sequence of tasks that clients learn, where there is one; `data` is a stream then. */
  readonly continual?: ContinualJob;
  /** One int32 that all threads count up by one for each client that they have trained. */
  readonly trained?: SharedArrayBuffer;
}

/** A version of what all clients begin with, in shared memory. Never changed while a fit that names it is under way. */
export interface SharedStart {
  readonly version: number;
  /** Parameters, then module state, as float32 vectors. */
  readonly params: SharedArrayBuffer;
  readonly state: SharedArrayBuffer;
  /** The objective's `round` tensors, by name. */
  readonly round: Readonly<Record<string, SharedArrayBuffer>>;
}

/** One client's local training. */
export interface ClientFit {
  /** Number of the client, for random keys and for messages. */
  readonly client: number;
  readonly round: number;
  /** Examples of the training split, in the client's own order. */
  readonly examples: Int32Array;
  readonly epochs: number;
  /** Steps to make at most (a straggler makes fewer); null for all of its epochs. */
  readonly maxSteps: number | null;
  /** Local steps that came before, in earlier rounds: what learning-rate schedules follow. */
  readonly firstStep: number;
  readonly weight: number;
  /** Norm that the parameters' update is scaled down to before it is weighted and leaves the client; null for no bound. */
  readonly clipNorm: number | null;
  /** Standard deviation of the noise that it adds to its clipped update before it leaves the client; none if null or absent. */
  readonly noise?: number | null;
  /** What its noise is drawn from besides the seed, where clients are real: known to it alone. */
  readonly noiseSecret?: string;
  /** The objective's `client` tensors; those that are absent are zeros. */
  readonly kept: Readonly<Record<string, Float32Array>>;
  /** What a malicious client does; honest ones have none. */
  readonly attack?: ClientAttack | null;
  /** Which task of a sequence it is in, where there is one. */
  readonly tasks?: ClientTasks;
}

/** Fits that one thread makes one after another. */
export interface FitTask {
  readonly start: SharedStart;
  readonly clients: readonly ClientFit[];
  /**
   * `sum`: the weighted updates are added up in the canonical tree over `clients`, and the sum is written. `each`: every
   * client's unweighted update is written, one behind the other.
   */
  readonly mode: 'sum' | 'each';
  /** Whether reports are to bring along what a codec wrote, for a client that has to send it. */
  readonly encoded?: boolean;
  /** Takes the updates: parameters, then module state, float32; once, or for `each` once a client. */
  readonly into: SharedArrayBuffer;
}

/** What a thread says of one client's fit besides its update. */
export interface ClientReport {
  readonly client: number;
  readonly examples: number;
  readonly steps: number;
  readonly weight: number;
  /** Mean loss of the local steps. */
  readonly loss: number;
  /** Euclidean norm of the parameters' update, before it was clipped. */
  readonly norm: number;
  /** Whether it clipped its update, as a client elsewhere says: what came of that has the bound's norm. Absent: `norm` tells. */
  readonly clipped?: boolean;
  /** Bytes of its parameters' update as a codec wrote it; absent where it went as it is. */
  readonly updateBytes?: number;
  /** What the codec wrote, where the task asks for it. */
  readonly encoded?: Uint8Array;
  readonly kept: Readonly<Record<string, Float32Array>>;
  /** What the objective's readings gave, by name. */
  readonly sent?: Readonly<Record<string, Float32Array>>;
  /** Learning rate of its first local step. */
  readonly lr?: number;
  readonly ms: number;
  /** Why there is no update (it is zeros then): an error of this client alone, such as a loss that is not finite. */
  readonly problem: string | null;
}

/** Parameters to look at, on these examples of a split. */
export interface EvaluateTask {
  readonly start: SharedStart;
  readonly split: SplitName;
  readonly examples: Int32Array;
  /** Whose eyes they are seen with, where clients do not see alike; without one with those of all groups in turn. */
  readonly client?: number;
  /** Outputs of the model that are looked at; default all. */
  readonly outputs?: readonly number[];
}

/** A client whose own model is to be looked at on its own examples. */
export interface ClientEvaluation {
  readonly client: number;
  readonly examples: Int32Array;
  /** What it keeps; without any of it its model is the server's. */
  readonly kept: Readonly<Record<string, Float32Array>>;
}

/** Clients whose own models one thread looks at. */
export interface EvaluateClientsTask {
  readonly start: SharedStart;
  readonly split: SplitName;
  readonly clients: readonly ClientEvaluation[];
}

/** How long vectors are, in numbers. */
export interface FitSizes {
  readonly params: number;
  readonly state: number;
  /** What a client receives for a fit, and what it sends: without what stays with it, with the objective's tensors. */
  readonly received: number;
  readonly sent: number;
}

/** Sums over the examples, so that parts can be added. */
export interface EvaluateReport {
  readonly examples: number;
  readonly loss: number;
  /** Examples whose largest logit is that of their class; null where the targets are no classes. */
  readonly correct: number | null;
}
