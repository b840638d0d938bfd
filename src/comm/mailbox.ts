import type { HostTensor } from '../tensor/index.ts';
import { CommClosed, CommTimeout } from './errors.ts';
import type { PendingWait } from './transport.ts';

interface Waiter {
  readonly resolve: (tensors: readonly HostTensor[]) => void;
  readonly reject: (error: Error) => void;
  readonly since: number;
  readonly timer: ReturnType<typeof setTimeout>;
}

/**
 * What has arrived from one peer and who waits for it, by tag. Order within a tag is the order of arrival. Its size is
 * bounded by the credits that the sender was given.
 */
export class Mailbox {
  readonly #rank: number;
  readonly #peer: number;
  readonly #queues = new Map<string, (readonly HostTensor[])[]>();
  readonly #waiters = new Map<string, Waiter[]>();
  #closed: string | null = null;

  constructor(rank: number, peer: number) {
    this.#rank = rank;
    this.#peer = peer;
  }

  /** Hands a message to whoever waits for its tag, or keeps it. */
  deliver(tag: string, tensors: readonly HostTensor[]): void {
    const waiters = this.#waiters.get(tag);
    const waiter = waiters?.shift();
    if (waiter) {
      if (waiters?.length === 0) this.#waiters.delete(tag);
      clearTimeout(waiter.timer);
      waiter.resolve(tensors);
      return;
    }
    const queue = this.#queues.get(tag);
    if (queue) queue.push(tensors);
    else this.#queues.set(tag, [tensors]);
  }

  /** The next message of a tag if it is here already. */
  take(tag: string): readonly HostTensor[] | null {
    const queue = this.#queues.get(tag);
    if (!queue) return null;
    const tensors = queue.shift();
    if (queue.length === 0) this.#queues.delete(tag);
    return tensors ?? null;
  }

  /**
   * Waits for the next message of a tag. `poll` is asked once more when the deadline passes: a thread that was busy may
   * find that the message has long been there.
   * @throws CommTimeout, CommClosed
   */
  wait(tag: string, deadlineMs: number, poll: () => void): Promise<readonly HostTensor[]> {
    if (this.#closed !== null) return Promise.reject(new CommClosed(this.#rank, this.#peer, tag, this.#closed));
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const waiter: Waiter = {
        resolve,
        reject,
        since,
        timer: setTimeout(() => {
          poll();
          if (!this.#remove(tag, waiter)) return;
          const waitedMs = performance.now() - since;
          reject(new CommTimeout(this.#rank, this.#peer, tag, waitedMs, 'message', this.#describeQueue()));
        }, deadlineMs),
      };
      const waiters = this.#waiters.get(tag);
      if (waiters) waiters.push(waiter);
      else this.#waiters.set(tag, [waiter]);
    });
  }

  /**
   * Waits as for a message of this tag, but for something else that its sender does: `until` resolves then.
   * @throws CommTimeout, CommClosed
   */
  async attend(tag: string, deadlineMs: number, until: Promise<void>): Promise<void> {
    const wait = this.wait(tag, deadlineMs, () => undefined);
    const waiter = this.#waiters.get(tag)?.at(-1);
    if (waiter)
      void until.then(() => {
        if (!this.#remove(tag, waiter)) return;
        clearTimeout(waiter.timer);
        waiter.resolve([]);
      });
    await wait;
  }

  /** Rejects every wait; messages that arrived before can still be taken. */
  close(reason: string): void {
    if (this.#closed !== null) return;
    this.#closed = reason;
    for (const [tag, waiters] of this.#waiters)
      for (const waiter of waiters) {
        clearTimeout(waiter.timer);
        waiter.reject(new CommClosed(this.#rank, this.#peer, tag, reason));
      }
    this.#waiters.clear();
  }

  get waiting(): boolean {
    return this.#waiters.size > 0;
  }

  pending(): PendingWait[] {
    const now = performance.now();
    return [...this.#waiters].flatMap(([tag, waiters]) =>
      waiters.map((waiter) => ({ from: this.#peer, tag, sinceMs: now - waiter.since })),
    );
  }

  /** Takes a waiter out; false if it does not wait any more. */
  #remove(tag: string, waiter: Waiter): boolean {
    const waiters = this.#waiters.get(tag);
    const index = waiters?.indexOf(waiter) ?? -1;
    if (!waiters || index < 0) return false;
    waiters.splice(index, 1);
    if (waiters.length === 0) this.#waiters.delete(tag);
    return true;
  }

  #describeQueue(): string {
    const tags = [...this.#queues.keys()];
    if (tags.length === 0) return 'nothing else from it is waiting here';
    return `from it are waiting here: ${tags.slice(0, 8).join(', ')}${tags.length > 8 ? `, and ${tags.length - 8} more` : ''}`;
  }
}
