import type { BlobServer } from '../../../comm/index.ts';
import type { SharedStart } from '../fit-task.ts';
import type { VectorList } from './messages.ts';
import { joinVectors, type Offered, offer } from './payload.ts';

/** Versions of the parameters that clients may still be fetching. */
const KEPT = 4;

/** Parameters as they travel: where they are fetched, and which vectors they are. */
export interface SentStart {
  readonly start: Offered;
  readonly vectors: VectorList;
}

/** Parameters on their way to clients: each version is made once, however many clients get it, and the last few are kept. */
export class SentStarts {
  readonly #blobs: BlobServer;
  readonly #owner: string;
  /** Newest last. */
  readonly #sent = new Map<SharedStart, SentStart>();

  /** @param owner of the blobs, as `blobs` knows itself */
  constructor(blobs: BlobServer, owner: string) {
    this.#blobs = blobs;
    this.#owner = owner;
  }

  /** A version as it travels; offered from now on. */
  of(start: SharedStart): SentStart {
    const known = this.#sent.get(start);
    if (known) return known;
    const { bytes, list } = joinVectors([
      ['params', new Float32Array(start.params)],
      ['state', new Float32Array(start.state)],
      ...Object.entries(start.round).map(([name, values]) => [name, new Float32Array(values)] as const),
    ]);
    const made = { start: offer(this.#blobs, this.#owner, `start ${start.version}`, bytes), vectors: list };
    this.#sent.set(start, made);
    for (const [oldest, { start: offered }] of this.#sent) {
      if (this.#sent.size <= KEPT) break;
      offered.withdraw();
      this.#sent.delete(oldest);
    }
    return made;
  }
}
