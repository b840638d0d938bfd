import type { MemberRecord } from '../../worker/index.ts';
import type { Records } from './records.ts';

/** What happened to an agent. */
export type MemberChange =
  | { readonly type: 'joined'; readonly member: MemberRecord }
  /** `seenMs`: milliseconds since its last sign of life. */
  | { readonly type: 'gone'; readonly member: MemberRecord; readonly reason: string; readonly seenMs: number };

/** Why an agent is gone that took its record away itself. */
export const LEFT = 'it has left';

/** An agent that was given up is taken back when it is heard of this long after, in milliseconds. */
const COMES_BACK_MS = 1000;

interface Entry {
  record: MemberRecord;
  seenAt: number;
  here: boolean;
  /** While the time is before this, what is heard of it does not count. */
  banUntil: number;
}

/**
 * Who is there. An agent puts its record every quarter of a lease; it is gone when none has arrived for a lease (by this
 * process's clock, and not counting the time that this process's own connection was down), when it deletes its record, or
 * when its `life` changes.
 */
export class Membership {
  readonly #records: Records;
  readonly #onChange: (change: MemberChange) => void;
  readonly #entries = new Map<string, Entry>();
  #unfollow: () => void = () => undefined;
  #timer: NodeJS.Timeout | null = null;
  #connected = true;
  #lastCheck = performance.now();

  constructor(records: Records, onChange: (change: MemberChange) => void) {
    this.#records = records;
    this.#onChange = onChange;
  }

  /** Begins to listen, and takes in those whose lease has not run out by the server's clock. */
  async start(): Promise<void> {
    this.#unfollow = this.#records.followMembers((id, record) => this.#heard(id, record, 0));
    await this.#records.connection.flush();
    const now = await this.#records.serverNow();
    for (const { value, at } of await this.#records.members())
      if (now - at < value.leaseMs && !this.#entries.has(value.id)) this.#heard(value.id, value, Math.max(0, now - at));
    this.#timer = setInterval(() => this.#check(), 50);
    this.#timer.unref();
  }

  /** Agents that are there, in order of their ids. */
  here(): MemberRecord[] {
    return [...this.#entries.values()]
      .filter(({ here }) => here)
      .map(({ record }) => record)
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  get(id: string): MemberRecord | null {
    const entry = this.#entries.get(id);
    return entry?.here ? entry.record : null;
  }

  /** Milliseconds since an agent was last heard of. */
  seenMs(id: string): number {
    return performance.now() - (this.#entries.get(id)?.seenAt ?? Number.NEGATIVE_INFINITY);
  }

  /** Something else than its lease says that an agent lives. */
  touch(id: string): void {
    const entry = this.#entries.get(id);
    if (entry?.here) entry.seenAt = performance.now();
  }

  /** Counts an agent as gone without an event; it comes back when it is heard of again a while later. */
  giveUp(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    entry.here = false;
    entry.banUntil = performance.now() + COMES_BACK_MS;
  }

  /** The connection of this process went down or came back: nobody's silence counts meanwhile. */
  connection(up: boolean): void {
    this.#connected = up;
    const now = performance.now();
    if (up) for (const entry of this.#entries.values()) entry.seenAt = now;
  }

  stop(): void {
    this.#unfollow();
    if (this.#timer) clearInterval(this.#timer);
  }

  #heard(id: string, record: MemberRecord | null, agoMs: number): void {
    const now = performance.now();
    const entry = this.#entries.get(id);
    if (!record) {
      if (entry?.here) this.#gone(entry, LEFT);
      this.#entries.delete(id);
      return;
    }
    if (!entry) {
      this.#entries.set(id, { record, seenAt: now - agoMs, here: true, banUntil: 0 });
      this.#onChange({ type: 'joined', member: record });
      return;
    }
    const restarted = entry.record.life !== record.life;
    if (entry.here && restarted) this.#gone(entry, 'its process was started anew');
    if (restarted) entry.banUntil = 0;
    entry.record = record;
    if (now < entry.banUntil) return;
    entry.seenAt = now - agoMs;
    if (entry.here) return;
    entry.here = true;
    this.#onChange({ type: 'joined', member: record });
  }

  #check(): void {
    const now = performance.now();
    // A process that was itself stopped or busy has not listened meanwhile either.
    const slept = now - this.#lastCheck > 500;
    this.#lastCheck = now;
    if (slept)
      for (const entry of this.#entries.values()) entry.seenAt = Math.max(entry.seenAt, now - entry.record.leaseMs / 2);
    if (!this.#connected) return;
    for (const entry of this.#entries.values()) {
      const silent = now - entry.seenAt;
      if (!entry.here || silent <= entry.record.leaseMs) continue;
      this.#gone(entry, `nothing was heard of it for its lease of ${(entry.record.leaseMs / 1000).toFixed(1)} s`);
    }
  }

  #gone(entry: Entry, reason: string): void {
    entry.here = false;
    this.#onChange({ type: 'gone', member: entry.record, reason, seenMs: performance.now() - entry.seenAt });
  }
}
