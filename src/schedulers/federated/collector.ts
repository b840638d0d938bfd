import type { ClientReport } from './fit-task.ts';
import type { MaskJob } from './privacy/mask-update.ts';
import type { ClientUpdate } from './strategy.ts';

/** What is known of a round when its clients begin to train. */
export interface Beginning {
  readonly round: number;
  /** Clients that are there, in order; some may leave, or be too slow. */
  readonly members: readonly number[];
  /** The largest of their weights. */
  readonly largest: number;
  /** Numbers in an update: parameters, then module state. */
  readonly length: number;
  /** Masks updates in their memory on other threads, where that is shared memory. Absent: it is done on this thread. */
  readonly mask?: (jobs: readonly MaskJob[]) => Promise<void>;
}

/** What the clients of a round have to send. */
export interface Answers {
  /** (Their memory is used for what is sent.) Of clients that have trained; those of the members that are missing have left. Those whose report has a problem send nothing. */
  readonly updates: readonly ClientUpdate[];
  /** Bound that clients clipped the norm of their updates to; null for none. */
  readonly clipNorm: number | null;
}

/** What the server knows in the end. */
export interface Collected {
  /** Weighted sum of the updates that were sent; null if there is none. */
  readonly sum: Float32Array | null;
  /** Sum of those clients' weights. */
  readonly weight: number;
  /** Of all clients that have trained; a problem says why an update is not in the sum. */
  readonly reports: readonly ClientReport[];
  /** Why nothing of the round can be used; null if it can. */
  readonly failure: string | null;
  /** Bytes that it took to and from clients besides the updates. */
  readonly down: number;
  readonly up: number;
}

/** How updates get from clients to the server, where that is more than sending them: what is handed to the server is the sum alone. */
export interface Collector {
  /** Called before clients are asked to train: what they can agree on before they are done. */
  begin(beginning: Beginning): Promise<Collection>;
}

/** A round that is being collected. */
export interface Collection {
  collect(answers: Answers): Promise<Collected>;
}

/** What a server may see of a client whose update was added up in secret: numbers of examples and steps, and the loss. */
export function withoutSecrets(report: ClientReport): ClientReport {
  const { sent: _, ...rest } = report;
  return { ...rest, norm: Number.NaN, kept: {} };
}
