import { jetstreamManager } from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import type { Msg, NatsConnection } from '@nats-io/transport-node';
import { isForbidden, lacksJetStream, listen, retryCall } from '../../comm/index.ts';
import { clusterKeys, type MemberRecord, makeBucket } from '../../worker/index.ts';
import { ClusterError, NoSuchJob, RecordsUnreachable } from './errors.ts';

const RETRY_MS = 100;

/** A record as the server has it. */
export interface Stored<T> {
  readonly value: T;
  readonly revision: number;
  /** When it was put, by the server's clock, in milliseconds since 1970. */
  readonly at: number;
}

/**
 * The records of a job in its JetStream KV bucket. Every call is repeated until the server answers or the deadline passes;
 * a bucket that is gone (memory storage and a restarted server) is made again with all that was put from here.
 */
export class Records {
  readonly connection: NatsConnection;
  readonly job: string;
  readonly #deadlineMs: number;
  readonly #signal: AbortSignal;
  readonly #use: 'take part' | 'look';
  readonly #own = new Map<string, unknown>();
  #bucket: Promise<KV> | null = null;

  /**
   * @param deadlineMs how long a call may take, a server that is away included
   * @param use who only looks makes no bucket where there is none
   */
  constructor(
    connection: NatsConnection,
    job: string,
    deadlineMs: number,
    signal: AbortSignal,
    use: 'take part' | 'look' = 'take part',
  ) {
    this.connection = connection;
    this.job = job;
    this.#deadlineMs = deadlineMs;
    this.#signal = signal;
    this.#use = use;
  }

  async get<T>(key: string): Promise<Stored<T> | null> {
    const entry = await this.#insist(`read '${key}'`, (kv) => kv.get(key));
    if (entry?.operation !== 'PUT') return null;
    return { value: parse<T>(entry.value, key), revision: entry.revision, at: entry.created.getTime() };
  }

  /** Puts a record; if the bucket has to be made again later, so is this. */
  async put(key: string, value: unknown): Promise<number> {
    this.#own.set(key, value);
    return this.#insist(`write '${key}'`, (kv) => kv.put(key, JSON.stringify(value)));
  }

  /** Puts what was put from here and is not there any more: the bucket was lost with its server's memory. */
  async restore(): Promise<void> {
    for (const [key, value] of this.#own) if (!(await this.get(key))) await this.put(key, value);
  }

  /** Puts a record that is still at `revision` (null: does not exist). Null if somebody else was quicker. */
  async exchange(key: string, value: unknown, revision: number | null): Promise<number | null> {
    const text = JSON.stringify(value);
    return this.#insist(`write '${key}'`, async (kv) => {
      try {
        return await (revision === null ? kv.create(key, text) : kv.update(key, text, revision));
      } catch (error) {
        if (!isConflict(error)) throw error;
        // The answer to an earlier attempt may have been lost: what is there may be this very value.
        const entry = await kv.get(key);
        return entry?.operation === 'PUT' && entry.string() === text ? entry.revision : null;
      }
    });
  }

  /** Milliseconds since 1970 by the server's clock, with which the times of records can be compared. */
  async serverNow(): Promise<number> {
    const key = 'clock';
    const revision = await this.put(key, 0);
    const entry = await this.#insist('read the clock', (kv) => kv.get(key, { revision }).catch(() => kv.get(key)));
    return entry?.created.getTime() ?? Date.now();
  }

  /**
   * All records of members that were ever put and not deleted. The keys are asked for in one request: the client's own listing
   * (`KV.keys`) reads from a consumer until the server counts nothing more to come, which where leases are renewed meanwhile
   * may be never.
   */
  async members(): Promise<Stored<MemberRecord>[]> {
    const all = clusterKeys.member('>');
    const keys = await this.#insist(`list '${all}'`, async () => {
      const stream = `KV_${clusterKeys.bucket(this.job)}`;
      const manager = await jetstreamManager(this.connection, { checkAPI: false });
      const { state } = await manager.streams.info(stream, { subjects_filter: `${this.#subjects}${all}` });
      return Object.keys(state.subjects ?? {}).map((subject) => subject.slice(this.#subjects.length));
    });
    const stored = await Promise.all(keys.map((key) => this.get<MemberRecord>(key)));
    return stored.filter((entry) => entry !== null);
  }

  /** Forgets a member that will not come back. */
  async forget(id: string): Promise<void> {
    await this.#insist(`delete '${clusterKeys.member(id)}'`, (kv) => kv.delete(clusterKeys.member(id)));
  }

  /**
   * Follows the members' records from now on. What is put into a bucket is a message on a subject like any other: listening
   * there, rather than through a consumer of the stream, goes on by itself after a reconnect.
   * @param onPut a record, or null where it was deleted
   */
  followMembers(onPut: (id: string, record: MemberRecord | null) => void): () => void {
    const prefix = `${this.#subjects}${clusterKeys.member('')}`;
    const arrived = (message: Msg) => {
      const id = message.subject.slice(prefix.length);
      const operation = message.headers?.get('KV-Operation') ?? '';
      if (operation !== '' || message.data.length === 0) return onPut(id, null);
      try {
        onPut(id, parse<MemberRecord>(message.data, id));
      } catch {
        // What is no record is no member; whoever wrote it is not one of ours.
      }
    };
    // (Without the permission, members are known from listing them.)
    return listen(this.connection, `${prefix}>`, arrived, () => undefined);
  }

  /** What the subjects begin with on which the bucket's records are. */
  get #subjects(): string {
    return `$KV.${clusterKeys.bucket(this.job)}.`;
  }

  async #insist<T>(what: string, call: (kv: KV) => Promise<T>): Promise<T> {
    const inBucket = async (): Promise<T> => {
      try {
        this.#bucket ??= this.#open();
        return await call(await this.#bucket);
      } catch (error) {
        this.#bucket = null;
        throw error;
      }
    };
    try {
      return await retryCall(this.connection, inBucket, {
        deadlineMs: this.#deadlineMs,
        pauseMs: RETRY_MS,
        isFinal: (error) => this.#isRefusal(error),
        signal: this.#signal,
      });
    } catch (error) {
      if (this.#signal.aborted) throw error;
      if (this.#isMissing(error)) throw new NoSuchJob(this.job, error);
      throw new RecordsUnreachable(
        `the records of job '${this.job}' cannot be reached (${what}): ${messageOf(error)}; ` +
          'is the NATS server up, with JetStream (nats-server -js), and may this user use the bucket?',
        { cause: error },
      );
    }
  }

  /** What no repetition mends. */
  #isRefusal(error: unknown): boolean {
    if (error instanceof ClusterError || this.#isMissing(error)) return true;
    if (lacksJetStream(this.connection, error) || isForbidden(error)) return true;
    return /insufficient|maximum .* exceeded/i.test((error as Error).message ?? '');
  }

  /** Who only looks finds no bucket. */
  #isMissing(error: unknown): boolean {
    return this.#use === 'look' && /stream not found|no stream matches/i.test((error as Error).message);
  }

  async #open(): Promise<KV> {
    if (this.#use === 'look') return new Kvm(this.connection).open(clusterKeys.bucket(this.job));
    return makeBucket(this.connection, this.job);
  }
}

function parse<T>(bytes: Uint8Array, key: string): T {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as T;
  } catch (error) {
    throw new ClusterError(`the record '${key}' is not valid JSON: was it written by another program?`, {
      cause: error,
    });
  }
}

function isConflict(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: string };
  return code === 10071 || /wrong last sequence|already exists/i.test(message ?? '');
}

function messageOf(error: unknown): string {
  const { name, message } = error as Error;
  return name === 'NoRespondersError' || /no responders/.test(message ?? '') ? 'nobody answers for JetStream' : message;
}
