import type { BlobServer } from '../../../comm/index.ts';
import type { SharedStart } from '../fit-task.ts';
import { gatherRuns, otherRuns, type Run } from '../sent-parts.ts';
import type { VectorList } from './messages.ts';
import { joinVectors, type Offered, offer } from './payload.ts';

/** Versions of the parameters that are kept at least, since they may be asked for again. */
const KEPT = 4;

/** Parameters as they travel: where they are fetched, and which vectors they are. */
export interface SentStart {
  readonly start: Offered;
  readonly vectors: VectorList;
  /** What a codec has written of the parameters, first in the parcel; null where they go as they are. */
  readonly encoded: { readonly bytes: number; readonly runs: [from: number, to: number][] } | null;
}

/**
 * Parameters on their way to clients: each version is made once, however many clients get it. The last few are kept, and those that
 * somebody trains on: a client that was started again fetches them again.
 */
export class SentStarts {
  readonly #blobs: BlobServer;
  readonly #owner: string;
  /** What codecs wrote of parameters. */
  readonly #encoded = new WeakMap<SharedStart, { readonly bytes: Uint8Array; readonly runs: readonly Run[] }>();
  /** Newest last. */
  readonly #sent = new Map<SharedStart, SentStart>();
  /** How many train on it. */
  readonly #holds = new Map<SharedStart, number>();

  /** @param owner of the blobs, as `blobs` knows itself */
  constructor(blobs: BlobServer, owner: string) {
    this.#blobs = blobs;
    this.#owner = owner;
  }

  /** Tells what a codec has written of some places of a version's parameters: it goes in their stead. */
  encode(start: SharedStart, bytes: Uint8Array, runs: readonly Run[]): void {
    this.#encoded.set(start, { bytes, runs });
  }

  /** A version as it travels; offered from now on. */
  of(start: SharedStart): SentStart {
    const known = this.#sent.get(start);
    if (known) return known;
    const encoded = this.#encoded.get(start) ?? null;
    const params = new Float32Array(start.params);
    const rest = encoded ? gatherRuns(params, otherRuns(params.length, encoded.runs)) : params;
    const vectors = [
      ['params', rest],
      ['state', new Float32Array(start.state)],
      ...Object.entries(start.round).map(([name, values]) => [name, new Float32Array(values)] as const),
    ] as const;
    const { bytes, list } = joinVectors(vectors, encoded?.bytes ?? null);
    const made = {
      start: offer(this.#blobs, this.#owner, `start ${start.version}`, bytes),
      vectors: list,
      encoded: encoded && {
        bytes: encoded.bytes.length,
        runs: encoded.runs.map(([from, to]): [number, number] => [from, to]),
      },
    };
    this.#sent.set(start, made);
    this.#withdraw();
    return made;
  }

  /** Keeps a version until what it returns is called. */
  hold(start: SharedStart): () => void {
    const holds = (change: number) => (this.#holds.get(start) ?? 0) + change;
    this.#holds.set(start, holds(1));
    return () => {
      if (holds(-1) > 0) this.#holds.set(start, holds(-1));
      else this.#holds.delete(start);
      this.#withdraw();
    };
  }

  #withdraw(): void {
    for (const [oldest, { start: offered }] of this.#sent) {
      if (this.#sent.size <= KEPT) return;
      if (this.#holds.has(oldest)) continue;
      offered.withdraw();
      this.#sent.delete(oldest);
    }
  }
}
