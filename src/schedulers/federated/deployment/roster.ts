import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { writeFileAtomically } from '../../../coordinator/index.ts';
import type { ToServer } from './messages.ts';

/** A client that has ever been part of a run: what its file holds. */
interface Registered {
  readonly id: string;
  readonly name: string;
  /** SHA-256 of its token. */
  readonly token: string;
  /** Its number in the run, once it was needed. */
  number: number | null;
  /** The number that it must have, since it has that part of the job's own data. */
  readonly part: number | null;
  /** Why it is not asked any more. */
  quarantined: string | null;
  examples: number;
}

/** A client that is there. */
export interface LiveClient {
  readonly id: string;
  readonly name: string;
  readonly examples: number;
  /** Proves to its blobs that the server asks. */
  readonly secret: string;
  /** Raised once it is gone. */
  readonly gone: AbortController;
  heard: number;
}

/** What happens to clients. */
export type RosterNews =
  | { readonly what: 'joined'; readonly name: string; readonly examples: number }
  | {
      readonly what: 'gone' | 'quarantined';
      readonly name: string;
      readonly number: number | null;
      readonly reason: string;
    };

/**
 * The clients of a run: who has ever taken part, under which number, who is there now, and who is quarantined. Numbers are for
 * ever, since random keys and the order of sums go by them; they are kept in a file of the run folder.
 */
export class Roster {
  readonly #file: string;
  readonly #leaseMs: number;
  readonly #deaf: () => boolean;
  readonly #news: (news: RosterNews) => void;
  readonly #registered: Map<string, Registered>;
  readonly #live = new Map<string, LiveClient>();
  /** Clients by number. */
  readonly #numbers = new Map<number, Registered>();
  /** Clients that will not do what the job asks. */
  readonly #refused = new Set<string>();
  readonly #watchers = new Set<() => void>();
  readonly #timer: NodeJS.Timeout;
  #writing: Promise<void> = Promise.resolve();
  #unsaved = false;

  private constructor(options: RosterOptions, registered: readonly Registered[]) {
    this.#file = options.file;
    this.#leaseMs = options.leaseMs;
    this.#deaf = options.deaf ?? (() => false);
    this.#news = options.news;
    this.#registered = new Map(registered.map((client) => [client.id, client]));
    for (const client of registered) if (client.number !== null) this.#numbers.set(client.number, client);
    this.#timer = setInterval(() => this.#expire(), options.leaseMs / 4);
    this.#timer.unref();
  }

  /** Opens the roster of a run; a run that goes on finds its clients again. */
  static async open(options: RosterOptions): Promise<Roster> {
    const text = await readFile(options.file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '[]';
      throw error;
    });
    return new Roster(options, JSON.parse(text) as Registered[]);
  }

  /** Clients that have ever taken part. */
  get size(): number {
    return this.#registered.size;
  }

  /** Clients that could be asked now. */
  get ready(): number {
    return this.#askable().length;
  }

  get quarantined(): number {
    return [...this.#registered.values()].filter((client) => client.quarantined !== null).length;
  }

  /** Lets a client in, or in again. @throws Error saying why it is not let in */
  join({ id, name, token, part }: Extract<ToServer, { type: 'join' }>): void {
    const known = this.#known({ id, token });
    if (known?.quarantined) throw new Error(`this client is quarantined: ${known.quarantined}`);
    if (known && known.part === (part?.index ?? null)) return;
    if (known?.number !== null && known !== undefined)
      throw new Error(
        `this client had ${known.part === null ? 'data of its own' : `part ${known.part + 1}`} before; give another --state`,
      );
    if (part) {
      const holder = [...this.#registered.values()].find((other) => other.part === part.index && other.id !== id);
      if (holder) {
        if (this.#live.has(holder.id) || holder.number !== null)
          throw new Error(
            `part ${part.index + 1} belongs to client ${holder.name}; take another, or use that client's state folder`,
          );
        this.#registered.delete(holder.id);
      }
    }
    const client = {
      id,
      name,
      token: hashed(token),
      number: null,
      part: part?.index ?? null,
      quarantined: null,
      examples: 0,
    };
    this.#registered.set(id, client);
    this.#save();
  }

  /** A client has its data and model ready. @throws Error if it has not joined */
  arrive({ id, token, name, examples, secret }: Extract<ToServer, { type: 'ready' }>): void {
    const known = this.#known({ id, token });
    if (!known) throw new Error('it has not joined this session');
    known.examples = examples;
    this.#refused.delete(id);
    // A client that was restarted goes on with what it is asked: it is asked until it answers.
    const gone = this.#live.get(id)?.gone ?? new AbortController();
    this.#live.set(id, { id, name, examples, secret, gone, heard: performance.now() });
    this.#save();
    this.#news({ what: 'joined', name, examples });
    this.#changed();
  }

  /** A sign of life. Whether the client is known, ready or not. */
  beat({ id, token }: { readonly id: string; readonly token: string }): boolean {
    const live = this.#live.get(id);
    if (live) live.heard = performance.now();
    const known = this.#known({ id, token });
    return known !== undefined && (live !== undefined || known.quarantined !== null || this.#refused.has(id));
  }

  /** A client will not do what the job asks: it stays, but is not asked. */
  refuse({ id, token }: { readonly id: string; readonly token: string }): void {
    if (this.#known({ id, token })) this.#refused.add(id);
  }

  /** A client has said goodbye, or was not heard. */
  leave({ id, token }: { readonly id: string; readonly token: string }, reason: string): void {
    if (this.#known({ id, token })) this.#lose(id, reason);
  }

  /** Asks a client no more for the rest of the run. */
  quarantine(number: number, reason: string): void {
    const client = this.#numbers.get(number);
    if (!client || client.quarantined !== null) return;
    client.quarantined = reason;
    this.#news({ what: 'quarantined', name: client.name, number, reason });
    this.#live.get(client.id)?.gone.abort(new Error(reason));
    this.#save();
    this.#changed();
  }

  /** Numbers of the clients that could be asked, rising; those that have none yet get one, by part and name. */
  numbers(): number[] {
    const asked = this.#askable();
    const without = asked.filter(({ number }) => number === null);
    without.sort((a, b) => (a.part ?? Infinity) - (b.part ?? Infinity) || order(a.name, b.name) || order(a.id, b.id));
    // Who has a part of the job's own data has its number.
    const parts = new Set([...this.#registered.values()].map(({ part }) => part));
    let free = 0;
    for (const client of without) {
      while (client.part === null && (this.#numbers.has(free) || parts.has(free))) free += 1;
      client.number = client.part ?? free;
      this.#numbers.set(client.number, client);
    }
    if (without.length > 0) this.#save();
    return asked.map(({ number }) => number as number).sort((a, b) => a - b);
  }

  /** Examples that a client last said it has; 0 for a number that was never given. */
  examples(number: number): number {
    return this.#numbers.get(number)?.examples ?? 0;
  }

  /** A client that is there; null if it is not. */
  live(number: number): LiveClient | null {
    const client = this.#numbers.get(number);
    return (client && this.#live.get(client.id)) ?? null;
  }

  /** What to call a client in messages. */
  nameOf(number: number): string {
    return this.#numbers.get(number)?.name ?? `client ${number}`;
  }

  /** All that are there, for farewells. */
  all(): LiveClient[] {
    return [...this.#live.values()];
  }

  /**
   * Waits until so many clients could be asked.
   * @returns whether they came before the deadline and the signal
   */
  async enough(
    count: number,
    deadlineMs: number,
    signal: AbortSignal,
    onWait: (have: number) => void,
  ): Promise<boolean> {
    if (this.ready >= count) return true;
    return new Promise((resolve) => {
      const settle = (enough: boolean) => {
        clearTimeout(timer);
        signal.removeEventListener('abort', aborted);
        this.#watchers.delete(changed);
        resolve(enough);
      };
      const aborted = () => settle(false);
      const changed = () => {
        if (this.ready >= count) settle(true);
        else onWait(this.ready);
      };
      const timer = setTimeout(() => settle(false), deadlineMs);
      signal.addEventListener('abort', aborted, { once: true });
      this.#watchers.add(changed);
      if (signal.aborted) aborted();
      else onWait(this.ready);
    });
  }

  /** Calls `changed` whenever clients come, leave or are not asked any more, until what it returns is called. */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /** Waits until the file is as it should be, and forgets who is there. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#live.clear();
    await this.#writing;
  }

  #askable(): Registered[] {
    return [...this.#live.keys()]
      .map((id) => this.#registered.get(id) as Registered)
      .filter(({ quarantined }) => quarantined === null);
  }

  /** @throws Error if somebody else uses the identity */
  #known({ id, token }: { readonly id: string; readonly token: string }): Registered | undefined {
    const known = this.#registered.get(id);
    if (known && !timingSafeEqual(Buffer.from(known.token), Buffer.from(hashed(token))))
      throw new Error('this identity belongs to another client');
    return known;
  }

  #expire(): void {
    const now = performance.now();
    // Nobody's silence means anything then; once there is a connection again, each has its whole lease to be heard.
    const deaf = this.#deaf();
    for (const live of [...this.#live.values()])
      if (deaf) live.heard = now;
      else if (now - live.heard > this.#leaseMs)
        this.#lose(live.id, `it was not heard for ${(this.#leaseMs / 1000).toPrecision(2)} s`);
  }

  #lose(id: string, reason: string): void {
    const live = this.#live.get(id);
    if (!live) return;
    this.#live.delete(id);
    live.gone.abort(new Error(`it left: ${reason}`));
    const { name, number } = this.#registered.get(id) as Registered;
    this.#news({ what: 'gone', name, number, reason });
    this.#changed();
  }

  #changed(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  #save(): void {
    if (this.#unsaved) return;
    this.#unsaved = true;
    // One write after another; what changes meanwhile is in the next one. An error is told when all is over.
    this.#writing = this.#writing
      .catch(() => undefined)
      .then(() => {
        this.#unsaved = false;
        return writeFileAtomically(this.#file, `${JSON.stringify([...this.#registered.values()], null, 1)}\n`, 0o600);
      });
    this.#writing.catch(() => undefined);
  }
}

/** How to open a roster. */
export interface RosterOptions {
  readonly file: string;
  /** Silence after which a client counts as gone, in milliseconds. */
  readonly leaseMs: number;
  /** Whether the server itself is without a connection, so that it can hear nobody. Default: it never is. */
  readonly deaf?: () => boolean;
  readonly news: (news: RosterNews) => void;
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

const hashed = (token: string): string => createHash('sha256').update(token).digest('hex');
