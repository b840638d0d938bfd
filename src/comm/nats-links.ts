import { randomBytes } from 'node:crypto';
import type { NatsConnection, Subscription } from '@nats-io/transport-node';
import type { FaultCounts } from './frame.ts';
import type { LinkInbox } from './linked-transport.ts';
import { assembleInPlace } from './nats-inside.ts';
import { NatsLink, type NatsSetting, within } from './nats-link.ts';
import { connectionUp, watchConnection } from './nats-status.ts';

/** Limits of links over NATS. */
export interface NatsLinkLimits {
  /** Bytes sent to a rank and not yet confirmed by it: what is kept for sending again. Default 8 MiB. */
  readonly windowBytes?: number;
  /** Bytes of a NATS message; the server's `max_payload` if that is less. Default 1 MiB. */
  readonly chunkBytes?: number;
  /** Tensors with more bytes are refused by the receiver. Default 1 GiB. */
  readonly maxTensorBytes?: number;
  /** How often a sender asks for what it has no confirmation of, in milliseconds. Default 500. */
  readonly probeMs?: number;
  /** How long `close` waits for what was sent to arrive, in milliseconds. Default 2000. */
  readonly lingerMs?: number;
}

/** Whose links these are. */
export interface NatsLinksOptions extends NatsLinkLimits {
  readonly rank: number;
  readonly world: number;
  /** The job's name: letters, digits, `-` and `_`. Subjects are `plexus.<job>.<from>.<to>`. */
  readonly job: string;
  readonly generation?: number;
}

/** How often a rank says that it is there to one that has not been heard, in milliseconds. */
const HELLO_MS = 200;

/** @throws RangeError if a job's name cannot be part of a subject */
export function checkJobName(job: string): void {
  if (!/^[\w-]{1,64}$/.test(job))
    throw new RangeError(`job "${job}" cannot be part of a NATS subject: 1 to 64 letters, digits, - and _`);
}

/** The links of one rank over a connection that is not its own: one subscription for all of them. */
export class NatsLinks {
  readonly #connection: NatsConnection;
  readonly #setting: NatsSetting;
  readonly #links = new Map<number, NatsLink>();
  readonly #dropped: FaultCounts;
  #subscription: Subscription | null = null;
  #unwatch: (() => void) | null = null;

  /** @throws RangeError on a job name that is no subject */
  constructor(connection: NatsConnection, options: NatsLinksOptions, dropped: FaultCounts) {
    const { job, generation = 0, rank } = options;
    checkJobName(job);
    this.#connection = connection;
    this.#dropped = dropped;
    this.#setting = {
      job,
      generation,
      rank,
      life: randomBytes(4).readUInt32LE(),
      maxDataBytes: options.maxTensorBytes ?? 2 ** 30,
      windowBytes: options.windowBytes ?? 8 * 2 ** 20,
      chunkBytes: options.chunkBytes ?? 2 ** 20,
      probeMs: options.probeMs ?? 500,
      lingerMs: options.lingerMs ?? 2000,
      dropped,
      connection,
      subject: (from, to) => `plexus.${job}.${from}.${to}`,
      state: {
        get up() {
          return connectionUp(connection);
        },
      },
    };
  }

  /** Bytes that were sent again. */
  get resentBytes(): number {
    let sum = 0;
    for (const link of this.#links.values()) sum += link.resentBytes;
    return sum;
  }

  /** Makes the link to a peer; before `open`. */
  link(peer: number, inbox: LinkInbox): NatsLink {
    const link = new NatsLink(this.#setting, peer, inbox);
    this.#links.set(peer, link);
    return link;
  }

  /** Begins to listen, and says so to the peers. */
  async open(): Promise<void> {
    const { subject, rank } = this.#setting;
    const lost = (reason: string) => {
      for (const link of this.#links.values()) link.lost(reason);
    };
    // A callback, not an iterator: iterators queue without bound. The sender's rank is the subject's third part.
    this.#subscription = this.#connection.subscribe(subject('*', rank), {
      callback: (error, message) => {
        if (error) return lost(`NATS: ${error.message}`);
        const link = this.#links.get(Number(message.subject.split('.')[2]));
        if (link) link.arrived(message.data);
        else this.#dropped.peer += 1;
      },
    });
    const sid = this.#subscription.getID();
    assembleInPlace(this.#connection, sid);
    this.#unwatch = watchConnection(this.#connection, {
      up: () => {
        assembleInPlace(this.#connection, sid);
        for (const link of this.#links.values()) link.resume();
      },
      denied: (reason) => lost(`NATS: ${reason}`),
      closed: lost,
    });
    await this.#connection.flush();
    for (const link of this.#links.values()) link.hello();
  }

  /** Peers of which nothing has been heard yet. */
  get unheard(): number[] {
    return [...this.#links].flatMap(([peer, link]) => (link.heard ? [] : [peer]));
  }

  /** Resolves with true when every peer has been heard, with false at the deadline or once `stopped` says so. */
  async allHeard(until: number, stopped: () => boolean): Promise<boolean> {
    for (;;) {
      const missing = [...this.#links.values()].filter((link) => !link.heard);
      if (missing.length === 0) return true;
      const left = Math.min(HELLO_MS, until - performance.now());
      if (left <= 0 || stopped()) return false;
      await within(Promise.race(missing.map((link) => link.whenHeard())), left);
      for (const link of missing) if (!link.heard) link.hello();
    }
  }

  /** Listens no more; what was published leaves first. The links were closed before. */
  async close(): Promise<void> {
    this.#unwatch?.();
    if (!this.#connection.isClosed()) this.#subscription?.unsubscribe();
    // (The last confirmations are on their way; a server that is away is not waited for.)
    if (connectionUp(this.#connection)) await within(this.#connection.flush(), this.#setting.lingerMs);
  }
}
