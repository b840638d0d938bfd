import type { KV } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { isForbidden, lacksJetStream, type RetryOptions, retryCall, watchConnection } from '../../comm/index.ts';
import { makeBucket } from './bucket.ts';
import { clusterKeys, type GenerationRecord, type MemberRecord } from './protocol.ts';
import { AgentRefusal } from './refusal.ts';

/** What changes of an agent's record. */
export type Standing = Pick<MemberRecord, 'generation' | 'ranks'>;

/** How often a server that is there but has no answer yet (a cluster that elects its leader) is asked, and how long. */
function opening(connection: NatsConnection): RetryOptions {
  const isFinal = (error: unknown): boolean => lacksJetStream(connection, error) || isForbidden(error);
  return { deadlineMs: 15_000, pauseMs: 250, isFinal };
}

/**
 * Opens a job's bucket, making it if there is none.
 * @throws AgentRefusal saying what to start if the server has no JetStream
 */
export async function openBucket(connection: NatsConnection, job: string): Promise<KV> {
  try {
    return await retryCall(connection, () => makeBucket(connection, job), opening(connection));
  } catch (error) {
    const { name, message } = error as Error;
    throw new AgentRefusal(
      `the NATS server at ${connection.getServer()} gives no JetStream bucket ${clusterKeys.bucket(job)} (${message || name}): start it with JetStream (plexus up, or nats-server -js -sd FOLDER), and let this login use it`,
      { cause: error },
    );
  }
}

/**
 * An agent's record in the job's bucket: put at once when something changes or the connection is back, and every quarter
 * of the lease. Puts that fail are made again with the next beat; a bucket that is gone is made again.
 */
export class Beat {
  readonly #connection: NatsConnection;
  readonly #job: string;
  readonly #record: Omit<MemberRecord, 'generation' | 'ranks' | 'beat'>;
  readonly #log: (line: string) => void;
  readonly #onLate: (silentMs: number) => void;
  readonly #unwatch: () => void;
  #kv: KV;
  #standing: Standing = { generation: null, ranks: [] };
  #timer: NodeJS.Timeout | null = null;
  #count = 0;
  #last: number;
  #failing = false;
  #isThere = false;
  #putting: Promise<void> | null = null;
  #again = false;

  /** @param onLate called when no beat could be sent for longer than the lease: others may have gone on without us */
  constructor(
    connection: NatsConnection,
    kv: KV,
    job: string,
    record: Omit<MemberRecord, 'generation' | 'ranks' | 'beat'>,
    hooks: { readonly log: (line: string) => void; readonly onLate: (silentMs: number) => void },
  ) {
    this.#connection = connection;
    this.#kv = kv;
    this.#job = job;
    this.#record = record;
    this.#log = hooks.log;
    this.#onLate = hooks.onLate;
    this.#last = performance.now();
    // (What was under way when the connection broke is not waited for.)
    this.#unwatch = watchConnection(connection, { up: () => void this.#tryPut() });
  }

  /** Puts the record for the first time. @throws AgentRefusal if this login may not, the client's error if it cannot be done */
  async start(): Promise<void> {
    try {
      // (A bucket that was made just now may still be electing who leads it.)
      await retryCall(this.#connection, () => this.#put(), opening(this.#connection));
    } catch (error) {
      if (!isForbidden(error)) throw error;
      throw new AgentRefusal(
        `this login may not be a worker of job '${this.#job}' (${(error as Error).message}): log in as one that may publish what a worker does, see configs/cluster/nats-server.conf`,
        { cause: error },
      );
    }
    this.#timer = setInterval(() => void this.#beat(), this.#record.leaseMs / 4);
  }

  /** What the agent does has changed. */
  set(standing: Standing): void {
    this.#standing = standing;
    void this.#beat();
  }

  /** The generation that the job is in, or null. */
  async generation(): Promise<GenerationRecord | null> {
    const entry = await this.#kv.get(clusterKeys.generation);
    return entry?.operation === 'PUT' ? entry.json<GenerationRecord>() : null;
  }

  /** No more beats; the record is deleted, so that nobody waits for the lease to run out. */
  async stop(deadlineMs: number): Promise<void> {
    this.#unwatch();
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    if (!this.#isThere || this.#connection.isClosed()) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    });
    const gone = (async () => {
      await this.#putting;
      await this.#kv.delete(clusterKeys.member(this.#record.id));
    })().catch((error: Error) => this.#log(`its record could not be deleted (${error.message}); its lease runs out`));
    await Promise.race([gone, late]);
    clearTimeout(timer);
  }

  /** One put at a time; what has changed meanwhile goes with the next. */
  async #beat(): Promise<void> {
    if (this.#putting) {
      this.#again = true;
      return;
    }
    this.#putting = this.#tryPut();
    await this.#putting;
    this.#putting = null;
    if (!this.#again || this.#timer === null) return;
    this.#again = false;
    void this.#beat();
  }

  async #tryPut(): Promise<void> {
    try {
      await this.#put();
      if (this.#failing) this.#log('its lease is renewed again');
      this.#failing = false;
    } catch (error) {
      if (!this.#failing && !this.#connection.isClosed())
        this.#log(`its lease could not be renewed: ${(error as Error).message}`);
      this.#failing = true;
      // The server may have lost the bucket with its memory.
      await makeBucket(this.#connection, this.#job).then(
        (kv) => {
          this.#kv = kv;
        },
        () => undefined, // (It is away: the next beat tries again.)
      );
    }
  }

  async #put(): Promise<void> {
    const record: MemberRecord = { ...this.#record, ...this.#standing, beat: this.#count++ };
    await this.#kv.put(clusterKeys.member(record.id), JSON.stringify(record));
    this.#isThere = true;
    const silent = performance.now() - this.#last;
    this.#last = performance.now();
    if (silent > record.leaseMs) this.#onLate(silent);
  }
}
