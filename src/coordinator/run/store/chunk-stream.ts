import type { JetStreamClient, JetStreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { ensureStream, isForbidden, lacksJetStream, retryCall } from '../../../comm/index.ts';
import { CheckpointError } from '../errors.ts';

/** Bytes of a message at most; a server may allow fewer. */
const CHUNK_BYTES = 512 * 1024;

/** Headers that the server adds when it hands a message out. */
const HEADER_ROOM = 4096;

/** Messages under way at once. */
const WINDOW = 8;

const RETRY_MS = 200;

/** How patient a stream is. */
export interface Patience {
  /** How long one message may take in all, over lost connections and restarted servers, in milliseconds. */
  readonly deadlineMs: number;
}

/**
 * A JetStream stream as a store of byte sequences by name: each is cut into messages with subjects of their own, of which
 * the last one counts. So everything can be repeated without harm, in any order, by any number of processes. Content is
 * not checked here: whoever reads knows its SHA-256.
 */
export class ChunkStream {
  readonly chunkBytes: number;
  readonly #name: string;
  readonly #prefix: string;
  readonly #connection: NatsConnection;
  readonly #client: JetStreamClient;
  readonly #manager: JetStreamManager;
  readonly #patience: Patience;

  private constructor(
    connection: NatsConnection,
    client: JetStreamClient,
    manager: JetStreamManager,
    name: string,
    prefix: string,
    patience: Patience,
  ) {
    this.#connection = connection;
    this.#client = client;
    this.#manager = manager;
    this.#name = name;
    this.#prefix = prefix;
    this.#patience = patience;
    const allowed = connection.info?.max_payload ?? CHUNK_BYTES + HEADER_ROOM;
    this.chunkBytes = Math.max(1024, Math.min(CHUNK_BYTES, allowed - HEADER_ROOM));
  }

  /**
   * Opens the stream, and makes it where there is none: on disk, refusing what there is no room for.
   * @param prefix what all its subjects begin with
   * @throws CheckpointError if the server has no JetStream, or does not let this login use it
   */
  static async open(
    connection: NatsConnection,
    { name, prefix, patience }: { readonly name: string; readonly prefix: string; readonly patience: Patience },
  ): Promise<ChunkStream> {
    const { DiscardPolicy, jetstream, jetstreamManager, RetentionPolicy, StorageType } = await client();
    const openManager = async (): Promise<JetStreamManager> => {
      const manager = await jetstreamManager(connection, { timeout: patience.deadlineMs });
      await ensureStream(manager, {
        name,
        subjects: [`${prefix}.>`],
        storage: StorageType.File,
        retention: RetentionPolicy.Limits,
        discard: DiscardPolicy.New,
        max_msgs_per_subject: 1,
        discard_new_per_subject: false,
        allow_direct: true,
      });
      return manager;
    };
    const lacks = (error: unknown) => lacksJetStream(connection, error);
    try {
      const manager = await retryCall(connection, openManager, {
        ...patience,
        pauseMs: RETRY_MS,
        // (A cluster that elects its leader has no answer either, for a moment.)
        isFinal: (error) => lacks(error) || (error as Error).name !== 'JetStreamNotEnabled',
      });
      return new ChunkStream(connection, jetstream(connection), manager, name, prefix, patience);
    } catch (error) {
      const server = connection.getServer();
      throw new CheckpointError(
        lacks(error)
          ? `the NATS server ${server} has no JetStream, where checkpoints are to be kept (run.store: nats): start it with -js, or set run.store to folder`
          : `checkpoints cannot be kept in the JetStream stream '${name}' of ${server}: ${(error as Error).message}`,
        { cause: error },
      );
    }
  }

  /** Stores a byte sequence under `name` (subject tokens); `read` gives any range of it. */
  async put(
    name: string,
    bytes: number,
    read: (offset: number, length: number) => Promise<Uint8Array> | Uint8Array,
  ): Promise<void> {
    await inWindow(Math.max(1, Math.ceil(bytes / this.chunkBytes)), async (chunk) => {
      const offset = chunk * this.chunkBytes;
      const content = await read(offset, Math.min(this.chunkBytes, bytes - offset));
      await this.#insist(`store part ${chunk} of ${name}`, () =>
        this.#client.publish(`${this.#prefix}.${name}.${chunk}`, content, { timeout: 5000 }),
      );
    });
  }

  /**
   * Reads a byte sequence of so many bytes, which was stored in chunks of `chunkBytes`. Parts come in any order.
   * @throws CheckpointError if one is missing or has another length
   */
  async get(
    name: string,
    bytes: number,
    chunkBytes: number,
    write: (offset: number, content: Uint8Array) => Promise<void> | void,
  ): Promise<void> {
    await inWindow(Math.max(1, Math.ceil(bytes / chunkBytes)), async (chunk) => {
      const offset = chunk * chunkBytes;
      const content = await this.last(`${name}.${chunk}`);
      const expected = Math.min(chunkBytes, bytes - offset);
      if (content?.length !== expected)
        throw new CheckpointError(
          `part ${chunk} of ${name} in the stream '${this.#name}' ${content ? `has ${content.length} bytes, but should have ${expected}` : 'is missing'}`,
        );
      await write(offset, content);
    });
  }

  /** The last message of a subject, or null. */
  async last(name: string): Promise<Uint8Array | null> {
    const found = await this.#insist(`read ${name}`, () =>
      this.#manager.direct.getMessage(this.#name, { last_by_subj: `${this.#prefix}.${name}` }),
    );
    return found === null ? null : found.data;
  }

  /** Stores one message, over the one before of that name. */
  async set(name: string, content: Uint8Array): Promise<void> {
    await this.#insist(`store ${name}`, () =>
      this.#client.publish(`${this.#prefix}.${name}`, content, { timeout: 5000 }),
    );
  }

  /** Names of messages that match a pattern (`*` and `>` as in subjects). */
  async names(pattern: string): Promise<string[]> {
    const { state } = await this.#insist(`list ${pattern}`, () =>
      this.#manager.streams.info(this.#name, { subjects_filter: `${this.#prefix}.${pattern}` }),
    );
    return Object.keys(state.subjects ?? {}).map((subject) => subject.slice(this.#prefix.length + 1));
  }

  /** Deletes all messages that match a pattern. */
  async purge(pattern: string): Promise<void> {
    await this.#insist(`delete ${pattern}`, () =>
      this.#manager.streams.purge(this.#name, { filter: `${this.#prefix}.${pattern}` }),
    );
  }

  /** Tries again while the server is away; what it refuses is refused. */
  async #insist<T>(what: string, call: () => Promise<T>): Promise<T> {
    const { JetStreamApiError } = await client();
    const isRefused = (error: unknown) => error instanceof JetStreamApiError && error.status < 500;
    const began = performance.now();
    try {
      return await retryCall(this.#connection, call, {
        ...this.#patience,
        pauseMs: RETRY_MS,
        isFinal: (error) => isRefused(error) || isForbidden(error) || isFullStream(error),
      });
    } catch (error) {
      const { message } = error as Error;
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      throw new CheckpointError(
        `the NATS server ${this.#connection.getServer()} did not ${what} in the stream '${this.#name}': ${message}${isRefused(error) ? '' : ` (after ${seconds} s)`}`,
        { cause: error },
      );
    }
  }
}

/** No room in the stream, the account or on the server's disk: trying again does not help. */
function isFullStream(error: unknown): boolean {
  return /maximum (bytes|messages)|insufficient|resource limits|exceeded/i.test((error as Error).message);
}

/** Does `count` things, some at once. When one fails no more are begun, and those under way are waited for. */
async function inWindow(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const one = async (): Promise<void> => {
    while (next < count && !failed)
      await work(next++).catch((error: unknown) => {
        failed = true;
        throw error;
      });
  };
  const outcomes = await Promise.allSettled(Array.from({ length: Math.min(WINDOW, count) }, one));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/** Loaded when it is used. (A CommonJS package has only a default export once it has been joined into the bundle.) */
const client = async () => (await import('@nats-io/jetstream')).default;
