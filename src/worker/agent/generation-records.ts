import type { NatsConnection } from '@nats-io/transport-node';
import { listen } from '../../comm/index.ts';
import type { Beat } from './beat.ts';
import { clusterKeys, type GenerationRecord } from './protocol.ts';

/** Follows which generation the job is in, by the record in its bucket. */
export class GenerationRecords {
  readonly #beat: Beat;
  readonly #log: (line: string) => void;
  readonly #moved: (record: GenerationRecord) => void;
  readonly #unlisten: () => void;

  /** @param moved called with each record, also with ones that are known already */
  constructor(
    connection: NatsConnection,
    job: string,
    beat: Beat,
    log: (line: string) => void,
    moved: (record: GenerationRecord) => void,
  ) {
    this.#beat = beat;
    this.#log = log;
    this.#moved = moved;
    // The bucket's record is a message like any other, also after a reconnect.
    this.#unlisten = listen(
      connection,
      `$KV.${clusterKeys.bucket(job)}.${clusterKeys.generation}`,
      (message) => {
        if (message.data.length > 0) moved(message.json<GenerationRecord>());
      },
      () => undefined, // (Without the permission, the record is looked up when the lease was late.)
    );
  }

  /** No beat has left for longer than the lease: this process was frozen, or cut off. */
  late(silentMs: number): void {
    this.#log(`was not heard for ${(silentMs / 1000).toFixed(1)} s, longer than its lease`);
    this.#beat.generation().then(
      (record) => record && this.#moved(record),
      (error: Error) => this.#log(`could not look up the generation: ${error.message}`),
    );
  }

  close(): void {
    this.#unlisten();
  }
}
