import { CommClosed, CommTimeout } from './errors.ts';

/** The channel of a tag: everything before its last slash, so that `act/s1/m0`, `act/s1/m1`, ... are one stream. */
export function channelOf(tag: string): string {
  const slash = tag.lastIndexOf('/');
  return slash < 0 ? tag : tag.slice(0, slash);
}

interface Waiter {
  readonly grant: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: ReturnType<typeof setTimeout>;
  readonly tag: string;
}

/**
 * A sender's view of how many messages each channel of one peer may still take. A credit is spent by each message and
 * comes back when the receiver has taken it, so neither side's queue can grow without bound.
 */
export class CreditWindow {
  readonly #rank: number;
  readonly #peer: number;
  readonly #size: number;
  readonly #used = new Map<string, number>();
  readonly #waiters = new Map<string, Waiter[]>();
  #closed: string | null = null;

  constructor(rank: number, peer: number, size: number) {
    this.#rank = rank;
    this.#peer = peer;
    this.#size = size;
  }

  /** Takes a credit if there is one (and nobody is ahead in the line). @throws CommClosed */
  tryTake(tag: string): boolean {
    if (this.#closed !== null) throw new CommClosed(this.#rank, this.#peer, tag, this.#closed);
    const channel = channelOf(tag);
    const used = this.#used.get(channel) ?? 0;
    if (used >= this.#size || this.#waiters.has(channel)) return false;
    this.#used.set(channel, used + 1);
    return true;
  }

  /**
   * Waits in line for a credit. `post` is called in the moment it is granted, so that messages leave in the order in
   * which they were sent.
   * @throws CommTimeout, CommClosed
   */
  take(tag: string, deadlineMs: number, poll: () => void, post: () => void): Promise<void> {
    if (this.#closed !== null) return Promise.reject(new CommClosed(this.#rank, this.#peer, tag, this.#closed));
    const channel = channelOf(tag);
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const waiter: Waiter = {
        grant: () => {
          try {
            post();
            resolve();
          } catch (error) {
            reject(error instanceof Error ? error : new Error(String(error)));
          }
        },
        reject,
        tag,
        timer: setTimeout(() => {
          poll();
          const waiters = this.#waiters.get(channel);
          const index = waiters?.indexOf(waiter) ?? -1;
          if (!waiters || index < 0) return;
          waiters.splice(index, 1);
          if (waiters.length === 0) this.#waiters.delete(channel);
          const note = `${this.#size} messages of channel "${channel}" are on their way or in its queue`;
          reject(new CommTimeout(this.#rank, this.#peer, tag, performance.now() - since, 'credit', note));
        }, deadlineMs),
      };
      const waiters = this.#waiters.get(channel);
      if (waiters) waiters.push(waiter);
      else this.#waiters.set(channel, [waiter]);
    });
  }

  /** Credits came back. */
  give(channel: string, count: number): void {
    let used = Math.max(0, (this.#used.get(channel) ?? 0) - count);
    const waiters = this.#waiters.get(channel);
    while (waiters && waiters.length > 0 && used < this.#size) {
      const waiter = waiters.shift() as Waiter;
      clearTimeout(waiter.timer);
      used += 1;
      waiter.grant();
    }
    if (waiters?.length === 0) this.#waiters.delete(channel);
    if (used === 0) this.#used.delete(channel);
    else this.#used.set(channel, used);
  }

  get waiting(): boolean {
    return this.#waiters.size > 0;
  }

  close(reason: string): void {
    if (this.#closed !== null) return;
    this.#closed = reason;
    for (const waiters of this.#waiters.values())
      for (const waiter of waiters) {
        clearTimeout(waiter.timer);
        waiter.reject(new CommClosed(this.#rank, this.#peer, waiter.tag, reason));
      }
    this.#waiters.clear();
  }
}
