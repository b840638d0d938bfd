import { DirectListener, dialPeer, showAddress, type TcpAddress, type TcpTls } from './direct.ts';
import { noFaults } from './frame.ts';
import { checkSecret, type LinkTerms } from './handshake.ts';
import { LinkedTransport, type LinkedTransportOptions } from './linked-transport.ts';
import { TcpLink } from './tcp-link.ts';
import type { Transport } from './transport.ts';

/** Options of direct links. */
export interface TcpOptions extends LinkedTransportOptions {
  readonly rank: number;
  readonly world: number;
  readonly job: string;
  readonly generation?: number;
  /** The job's secret, at least 16 bytes, the same on every rank: who does not know it gets no link. */
  readonly secret: string | Uint8Array;
  /** Where to listen. Default: any free port on 127.0.0.1. */
  readonly listen?: TcpAddress;
  /** Encrypts the links. Without it they are authenticated, not encrypted. */
  readonly tls?: TcpTls;
  /**
   * Whether tensors carry a checksum besides their headers. Default `auto`: over a network without TLS they do, within a
   * machine they do not, where checking memory against itself would halve the throughput.
   */
  readonly checksum?: boolean | 'auto';
  /** Tensors with more bytes are refused by the receiver. Default 1 GiB. */
  readonly maxTensorBytes?: number;
}

/** A rank that listens and can be dialled, but is not linked to all others yet. */
export interface TcpEndpoint {
  /** What the other ranks must be told. */
  readonly address: TcpAddress;
  /**
   * Dials every other rank (`addresses[r]` is rank r's) and waits until all have dialled this one.
   * @throws HandshakeError if a rank is refused or refuses; Error naming the ranks that are missing at the deadline
   */
  connect(addresses: readonly TcpAddress[]): Promise<Transport>;
  close(): Promise<void>;
}

/**
 * Begins to listen for direct links over TCP or a unix socket. Each pair of ranks has a connection a direction, dialled by
 * the one that receives; both ends prove that they know the job's secret before anything else is read.
 */
export async function listenTcp(options: TcpOptions): Promise<TcpEndpoint> {
  const endpoint = new Endpoint(options);
  await endpoint.listen();
  return endpoint;
}

class Endpoint implements TcpEndpoint {
  readonly #options: TcpOptions;
  readonly #terms: LinkTerms;
  readonly #deadlineMs: number;
  readonly #listener: DirectListener;
  readonly #links: (TcpLink | null)[] = [];
  readonly #transport: LinkedTransport;
  #progress: () => void = () => undefined;
  #closed = false;

  constructor(options: TcpOptions) {
    const { rank, world, job, generation = 0, secret, tls, deadlineMs = 60_000, credits = 64 } = options;
    checkSecret(secret);
    this.#options = options;
    this.#deadlineMs = deadlineMs;
    this.#terms = { job, generation, world, credits, secret };
    this.#listener = new DirectListener({
      terms: this.#terms,
      rank,
      tls,
      admit: (peer) => (this.#links[peer]?.canSend ? `rank ${peer} has a link already` : null),
      accepted: (peer, _purpose, socket) => {
        this.#links[peer]?.attachOut(socket);
        this.#progress();
      },
    });
    const dropped = noFaults();
    const { maxTensorBytes: maxDataBytes = 2 ** 30, checksum = 'auto' } = options;
    const name = options.listen && 'path' in options.listen ? 'unix' : 'tcp';
    this.#transport = new LinkedTransport(
      { name, rank, world },
      options,
      (peer, inbox) => {
        const link =
          peer === rank ? null : new TcpLink({ job, generation, rank, peer, maxDataBytes, checksum, dropped }, inbox);
        this.#links.push(link);
        return link;
      },
      { statistics: () => ({ dropped: { ...dropped } }), close: () => this.#stopListening() },
    );
  }

  get address(): TcpAddress {
    return this.#listener.address as TcpAddress;
  }

  async listen(): Promise<void> {
    await this.#listener.listen(this.#options.listen ?? { host: '127.0.0.1', port: 0 });
  }

  async connect(addresses: readonly TcpAddress[]): Promise<Transport> {
    const { rank, world, tls } = this.#options;
    if (addresses.length !== world)
      throw new RangeError(`${world} ranks need ${world} addresses, got ${addresses.length}`);
    const until = performance.now() + this.#deadlineMs;
    try {
      const inbound = this.#allHaveDialled();
      await Promise.all([
        ...addresses.map(async (address, peer) => {
          const link = this.#links[peer];
          if (!link) return;
          await dialPeer({
            terms: this.#terms,
            rank,
            peer,
            address,
            tls,
            until,
            stopped: () => this.#closed,
            reader: link,
            linked: (socket, rest) => link.attachIn(socket, rest),
          });
        }),
        inbound,
      ]);
    } catch (error) {
      await this.close();
      throw error;
    }
    await this.#stopListening();
    return this.#transport;
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #stopListening(): Promise<void> {
    this.#closed = true;
    await this.#listener.close();
  }

  /** Resolves when every other rank has dialled this one. */
  #allHaveDialled(): Promise<void> {
    return new Promise((resolve, reject) => {
      const missing = () => this.#links.flatMap((link, peer) => (link && !link.canSend ? [peer] : []));
      const timer = setTimeout(() => {
        const { refusals } = this.#listener;
        const refused = refusals.length > 0 ? ` (refused: ${refusals.join('; ')})` : '';
        reject(
          new Error(
            `rank ${this.#options.rank} waited ${this.#deadlineMs} ms for rank ${missing().join(', ')} to dial it at ${showAddress(this.address)}${refused}`,
          ),
        );
      }, this.#deadlineMs);
      this.#progress = () => {
        if (missing().length > 0 && !this.#closed) return;
        clearTimeout(timer);
        if (missing().length === 0) resolve();
        else reject(new Error(`rank ${this.#options.rank} was closed while it waited for its links`));
      };
      this.#progress();
    });
  }
}
