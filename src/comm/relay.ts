import type { MessagePort } from 'node:worker_threads';
import type { Endpoint, LinkAddress, LinkKind } from './endpoint-contract.ts';
import type { Link, LinkInbox } from './linked-transport.ts';
import { LocalLink } from './local.ts';
import { scratch } from './scratch.ts';

/** What joins a compute thread's port with a link to another process. */
export interface Relay {
  /**
   * Ends both sides, each with the reason: `drain` (the default) lets what was posted leave first, for a moment; `abort`
   * does not. Resolves when the link is closed.
   */
  close(reason: string, how?: 'drain' | 'abort'): Promise<void>;
}

/** What a relay tells whoever made it. */
export interface RelayOptions {
  /** Called once, when either side has ended by itself: the compute thread's (`port`) or the other process (`link`). */
  readonly ended?: (side: 'port' | 'link', reason: string) => void;
  /** The other rank, for messages. */
  readonly peer?: number;
}

/**
 * Joins the port of a compute thread, which uses the local transport, with a link to another process, in a thread that
 * owns connections: messages, credits and ends go through both ways. Memory is handed on, never copied here; scratch memory
 * of the compute thread returns to this thread's pool when it has left, and serves what arrives. As credits are given by
 * the two ends, what waits here is bounded by them.
 */
export function relay(port: MessagePort, connect: (inbox: LinkInbox) => Link, options: RelayOptions = {}): Relay {
  const joint = new Joint(options);
  joint.attach(port, connect(joint.inbox));
  return joint;
}

/**
 * Connects an endpoint and joins each link with the port to that peer (by rank; null where there is none). What comes
 * before all links stand waits in the ports.
 * @throws what `Endpoint.connect` throws; the ports are closed then, with that reason
 */
export async function relayAll(
  endpoint: Endpoint,
  addresses: readonly (LinkAddress | null)[],
  kinds: readonly (LinkKind | '-')[],
  ports: readonly (MessagePort | null)[],
  ended: (peer: number, side: 'port' | 'link', reason: string) => void = () => undefined,
): Promise<(Relay | null)[]> {
  const joints = ports.map(
    (port, peer) => port && new Joint({ peer, ended: (side, reason) => ended(peer, side, reason) }),
  );
  const inbox = (peer: number): LinkInbox => {
    const joint = joints[peer];
    if (!joint) throw new RangeError(`there is a link to rank ${peer}, but no port of the compute thread to it`);
    return joint.inbox;
  };
  for (const [peer, port] of ports.entries()) if (port) joints[peer]?.receive(port);
  try {
    const links = await endpoint.connect(addresses, kinds, inbox);
    return links.map((link, peer) => {
      const joint = joints[peer] ?? null;
      if (link) joint?.join(link);
      return link && joint;
    });
  } catch (error) {
    for (const joint of joints) await joint?.close((error as Error).message, 'abort');
    throw error;
  }
}

class Joint implements Relay {
  readonly #options: RelayOptions;
  readonly #waiting: ((link: Link) => void)[] = [];
  #local: LocalLink | null = null;
  #remote: Link | null = null;
  #closed: Promise<void> | null = null;
  #over = false;

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** For the link to the other process. */
  readonly inbox: LinkInbox = {
    message: (tag, tensors) => {
      if (!this.#over) this.#local?.post(tag, tensors, true);
    },
    credit: (channel, count) => {
      if (!this.#over) this.#local?.giveCredit(channel, count);
    },
    // (Nothing can be sent any more, but something may still arrive; `receivingEnded` follows.)
    sendingEnded: () => undefined,
    receivingEnded: (reason) => this.#end('link', reason),
  };

  attach(port: MessagePort, link: Link): void {
    this.#remote = link;
    this.receive(port);
  }

  /** Takes what the compute thread says; it is kept until there is a link (bounded by the credits). */
  receive(port: MessagePort): void {
    const { peer = -1 } = this.#options;
    this.#local = new LocalLink(peer, port, {
      message: (tag, tensors) => {
        for (const { data } of tensors) scratch.adopt(data);
        this.#out((link) => {
          // A failure means that the link has ended, which `receivingEnded` tells.
          link.post(tag, tensors, true)?.catch(() => undefined);
        });
      },
      credit: (channel, count) => this.#out((link) => link.giveCredit(channel, count)),
      sendingEnded: () => undefined,
      receivingEnded: (reason) => this.#end('port', reason),
    });
  }

  join(link: Link): void {
    this.#remote = link;
    if (this.#over) void link.close('closed meanwhile', 'abort');
    for (const act of this.#waiting.splice(0)) if (!this.#over) act(link);
  }

  close(reason: string, how: 'drain' | 'abort' = 'drain'): Promise<void> {
    this.#closed ??= this.#close(reason, how);
    return this.#closed;
  }

  #out(act: (link: Link) => void): void {
    if (this.#over) return;
    if (this.#remote) act(this.#remote);
    else this.#waiting.push(act);
  }

  #end(side: 'port' | 'link', reason: string): void {
    if (this.#over) return;
    // A compute thread that closes in good order has posted all it wanted to say; a link that has ended has nothing left.
    void this.close(reason, side === 'port' ? 'drain' : 'abort');
    this.#options.ended?.(side, reason);
  }

  async #close(reason: string, how: 'drain' | 'abort'): Promise<void> {
    this.#over = true;
    this.#waiting.length = 0;
    await Promise.all([this.#local?.close(reason), this.#remote?.close(reason, how)]);
  }
}
