import type { NatsConnection } from '@nats-io/transport-node';
import { BlobServer, fetchBlob } from '../../comm/index.ts';
import type { CheckpointSource } from './checkpoint-source.ts';
import { SourceGone } from './errors.ts';

/** What the coordinator calls itself as an owner of blobs. */
const COORDINATOR = 'coordinator';

/** Tensors to and from the coordinator: it offers checkpoints of its disk, and fetches snapshots of ranks. */
export class Blobs {
  readonly #nats: NatsConnection;
  readonly #job: string;
  readonly #deadlineMs: number;
  readonly #signal: AbortSignal;
  readonly #server: BlobServer;
  readonly #offers = new Map<string, () => void>();
  #secret = '';
  /** Ends with the generation: what is fetched for longer is not there any more. */
  #generation = new AbortController();

  constructor(nats: NatsConnection, job: string, deadlineMs: number, signal: AbortSignal) {
    this.#nats = nats;
    this.#job = job;
    this.#deadlineMs = deadlineMs;
    this.#signal = signal;
    this.#server = new BlobServer({ nats, job, owner: COORDINATOR });
  }

  /** A generation begins: only those who know its secret are given anything, or give. What is under way is given up. */
  useSecret(secret: string): void {
    this.#secret = secret;
    this.#generation.abort(new SourceGone('the generation has ended'));
    this.#generation = new AbortController();
    this.#server.secret = secret;
  }

  /** Offers a checkpoint in place of the one before. */
  offer({ held, length, read }: CheckpointSource): void {
    const name = held.snapshot.blob;
    if (this.#offers.has(name)) return;
    for (const withdraw of this.#offers.values()) withdraw();
    this.#offers.clear();
    this.#offers.set(name, this.#server.offer(name, { length, read }));
  }

  /** Fetches a range. @throws SourceGone */
  async fetch(owner: string, blob: string, offset: number, length: number): Promise<Uint8Array> {
    try {
      return await fetchBlob({
        nats: this.#nats,
        job: this.#job,
        owner,
        blob,
        offset,
        length,
        secret: this.#secret,
        deadlineMs: this.#deadlineMs,
        signal: AbortSignal.any([this.#signal, this.#generation.signal]),
      });
    } catch (error) {
      throw new SourceGone(`${blob} of ${owner} could not be fetched: ${(error as Error).message}`, { cause: error });
    }
  }

  async close(): Promise<void> {
    await this.#server.close();
  }
}
