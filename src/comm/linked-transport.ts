import type { HostTensor } from '../tensor/index.ts';
import { CreditWindow, channelOf } from './credits.ts';
import { CommClosed, CommTimeout } from './errors.ts';
import { Mailbox } from './mailbox.ts';
import type { PendingWait, RecvOptions, SendOptions, Transport, TransportStatistics } from './transport.ts';

/** What carries messages between this rank and one other, in order and without loss. */
export interface Link {
  /**
   * Puts a message on its way, after all that were posted before. If it returns a promise, that resolves when the tensors
   * may be reused, in any case without the peer's program doing anything.
   */
  post(tag: string, tensors: readonly HostTensor[], transfer: boolean): Promise<void> | undefined;
  /** Tells the peer that messages of a channel were taken. */
  giveCredit(channel: string, count: number): void;
  /** Fetches what has arrived without waiting for a turn of the event loop, where that is possible. */
  poll(): void;
  /** Whether this link keeps the thread alive. */
  hold(on: boolean): void;
  /** Frees the link. `drain`: says good-bye and lets what was posted leave first; `abort`: nothing leaves any more. */
  close(reason: string, how: 'drain' | 'abort'): Promise<void>;
}

/** Where a link puts what arrives. */
export interface LinkInbox {
  message(tag: string, tensors: readonly HostTensor[]): void;
  credit(channel: string, count: number): void;
  /** Nothing will be taken from here any more. */
  sendingEnded(reason: string): void;
  /** Nothing will arrive any more. */
  receivingEnded(reason: string): void;
}

/** What every transport over links can be told. */
export interface LinkedTransportOptions {
  /** How long a wait may take before it fails, in milliseconds. Default 60 s. */
  readonly deadlineMs?: number;
  /** Messages per (peer, channel) that may be sent before the receiver has taken any; the same on all ranks. Default 64. */
  readonly credits?: number;
}

interface Peer {
  readonly link: Link;
  readonly mailbox: Mailbox;
  readonly credits: CreditWindow;
  /** Messages per channel that are here and whose credits were not given back yet. */
  readonly held: Map<string, number>;
  /** Messages taken per channel and not yet reported to the sender. */
  readonly taken: Map<string, number>;
}

/**
 * A transport made of one link to each other rank: tags, credits, deadlines and statistics, the same whatever the links
 * are made of.
 */
export class LinkedTransport implements Transport {
  readonly name: string;
  readonly rank: number;
  readonly world: number;
  readonly #deadlineMs: number;
  readonly #window: number;
  readonly #creditBatch: number;
  readonly #peers: (Peer | null)[] = [];
  readonly #statistics = { messagesSent: 0, bytesSent: 0, messagesReceived: 0, bytesReceived: 0 };
  readonly #more: { statistics(): Partial<TransportStatistics>; close(): Promise<void> } | null;
  #waits = 0;
  #closing: Promise<void> | null = null;

  /** `connect` makes the link to a peer (null for this rank itself); `more` is what stands behind all links. */
  constructor(
    identity: { readonly name: string; readonly rank: number; readonly world: number },
    options: LinkedTransportOptions,
    connect: (peer: number, inbox: LinkInbox) => Link | null,
    more: { statistics(): Partial<TransportStatistics>; close(): Promise<void> } | null = null,
  ) {
    const { deadlineMs = 60_000, credits = 64 } = options;
    this.name = identity.name;
    this.rank = identity.rank;
    this.world = identity.world;
    this.#deadlineMs = deadlineMs;
    this.#window = credits;
    this.#creditBatch = Math.max(1, credits >> 1);
    this.#more = more;
    for (let peer = 0; peer < identity.world; peer++) this.#peers.push(this.#connect(peer, connect));
  }

  async send(to: number, tag: string, tensors: readonly HostTensor[], options: SendOptions = {}): Promise<void> {
    const peer = this.#peer(to, tag);
    let leaving: Promise<void> | undefined;
    const post = () => {
      let bytes = 0;
      for (const { data } of tensors) bytes += data.byteLength;
      leaving = peer.link.post(tag, tensors, options.transfer === true);
      this.#statistics.messagesSent += 1;
      this.#statistics.bytesSent += bytes;
    };
    if (peer.credits.tryTake(tag)) post();
    else {
      peer.link.poll();
      if (peer.credits.tryTake(tag)) post();
      else await this.#waiting(peer.credits.take(tag, this.#deadlineMs, () => peer.link.poll(), post));
    }
    if (leaving) await this.#waiting(this.#inTime(leaving, peer, to, tag));
  }

  async recv(from: number, tag: string, options: RecvOptions = {}): Promise<readonly HostTensor[]> {
    const peer = this.#peer(from, tag);
    let tensors = peer.mailbox.take(tag);
    if (!tensors) {
      peer.link.poll();
      tensors = peer.mailbox.take(tag);
    }
    tensors ??= await this.#waiting(
      peer.mailbox.wait(tag, options.deadlineMs ?? this.#deadlineMs, () => peer.link.poll()),
    );
    this.#giveBack(peer, channelOf(tag));
    this.#statistics.messagesReceived += 1;
    for (const tensor of tensors) this.#statistics.bytesReceived += tensor.data.byteLength;
    return tensors;
  }

  /** Waits for `until` in the place of a message of another rank's: with its deadline, its errors, its place in `pending`. */
  async attend(from: number, tag: string, until: Promise<void>): Promise<void> {
    const { mailbox } = this.#peer(from, tag);
    await this.#waiting(mailbox.attend(tag, this.#deadlineMs, until));
  }

  /** Counts bytes that went to other ranks, and came from them, without a message. */
  moved(bytesSent: number, bytesReceived: number): void {
    this.#statistics.bytesSent += bytesSent;
    this.#statistics.bytesReceived += bytesReceived;
  }

  pending(): readonly PendingWait[] {
    return this.#peers.flatMap((peer) => peer?.mailbox.pending() ?? []);
  }

  statistics(): TransportStatistics {
    return { ...this.#statistics, ...this.#more?.statistics() };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const reason = `rank ${this.rank} closed its transport`;
    for (const peer of this.#peers) {
      peer?.mailbox.close('closed here');
      peer?.credits.close('closed here');
    }
    await Promise.all(this.#peers.map((peer) => peer?.link.close(reason, 'drain')));
    await this.#more?.close();
  }

  #connect(rank: number, connect: (peer: number, inbox: LinkInbox) => Link | null): Peer | null {
    const mailbox = new Mailbox(this.rank, rank);
    const credits = new CreditWindow(this.rank, rank, this.#window);
    const held = new Map<string, number>();
    const link = connect(rank, {
      message: (tag, tensors) => {
        const channel = channelOf(tag);
        const count = (held.get(channel) ?? 0) + 1;
        held.set(channel, count);
        if (count <= this.#window) return mailbox.deliver(tag, tensors);
        const reason = `rank ${rank} sent "${tag}" without credit (${this.#window} messages a channel; is \`credits\` the same on all ranks?)`;
        mailbox.close(reason);
        credits.close(reason);
        void link?.close(reason, 'abort');
      },
      credit: (channel, count) => credits.give(channel, count),
      sendingEnded: (reason) => credits.close(reason),
      receivingEnded: (reason) => mailbox.close(reason),
    });
    return link ? { link, mailbox, credits, held, taken: new Map() } : null;
  }

  #peer(rank: number, tag: string): Peer {
    const peer = this.#peers[rank];
    if (!peer)
      throw new RangeError(
        `rank ${this.rank} has no link to rank ${rank} for "${tag}" (ranks are 0..${this.world - 1}, and not its own)`,
      );
    if (this.#closing) throw new CommClosed(this.rank, this.rank, tag, 'closed here');
    return peer;
  }

  #giveBack(peer: Peer, channel: string): void {
    const taken = (peer.taken.get(channel) ?? 0) + 1;
    if (taken < this.#creditBatch) {
      peer.taken.set(channel, taken);
      return;
    }
    peer.taken.delete(channel);
    const held = (peer.held.get(channel) ?? 0) - taken;
    if (held > 0) peer.held.set(channel, held);
    else peer.held.delete(channel);
    peer.link.giveCredit(channel, taken);
  }

  /**
   * Waits until a posted message no longer needs its memory. Past the deadline the link is given up: the memory may be
   * reused after the error, so what is left of the message must not leave any more.
   */
  async #inTime(leaving: Promise<void>, peer: Peer, to: number, tag: string): Promise<void> {
    const since = performance.now();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const waitedMs = performance.now() - since;
        const error = new CommTimeout(this.rank, to, tag, waitedMs, 'credit', 'its end of the link does not read');
        reject(error);
        peer.mailbox.close(error.message);
        peer.credits.close(error.message);
        void peer.link.close(error.message, 'abort');
      }, this.#deadlineMs);
    });
    try {
      await Promise.race([leaving, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Links keep the thread alive only while something is waited for. */
  async #waiting<T>(wait: Promise<T>): Promise<T> {
    if (this.#waits++ === 0) for (const peer of this.#peers) peer?.link.hold(true);
    try {
      return await wait;
    } finally {
      if (--this.#waits === 0) for (const peer of this.#peers) peer?.link.hold(false);
    }
  }
}
