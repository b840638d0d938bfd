import type { NatsConnection } from '@nats-io/transport-node';
import type { TcpTls } from './direct.ts';
import type { FaultCounts } from './frame.ts';
import type { Link, LinkInbox } from './linked-transport.ts';
import type { NatsLinkLimits } from './nats-links.ts';

/** How two ranks can be linked. `local`: threads of one process. `host`: shared memory of one machine. */
export type LinkKind = 'local' | 'host' | 'unix' | 'tcp' | 'nats';

/** Where the links of a rank can be reached. */
export interface LinkAddress {
  /** Equal for processes that can share memory and unix sockets. */
  readonly hostId: string;
  readonly tcp: { readonly host: string; readonly port: number } | null;
  readonly unix: string | null;
  /** Whether this process can map shared memory. */
  readonly host: boolean;
}

/** Options of an endpoint. */
export interface EndpointOptions extends Omit<NatsLinkLimits, 'lingerMs'> {
  /** Letters, digits, `-` and `_`. */
  readonly job: string;
  readonly generation: number;
  readonly rank: number;
  readonly world: number;
  /** The job's secret, at least 16 bytes, the same on every rank: who does not know it gets no link. */
  readonly secret: string | Uint8Array;
  /**
   * Where to listen for TCP. Default: any port of all interfaces; what is told to others is then the address by which the
   * NATS server sees this machine, or its first one. `null`: not at all.
   */
  readonly listen?: { readonly host?: string; readonly port?: number } | null;
  /** For links of kind `nats`; it is not closed with the endpoint. */
  readonly nats: NatsConnection | null;
  /** How long `connect` may take, in milliseconds. */
  readonly deadlineMs: number;
  /**
   * How long nobody may answer at the address of a peer before a direct link counts as impossible, in milliseconds. A peer
   * that answers may take until the deadline to know of the link. Default 8 s, `deadlineMs` if that is less.
   */
  readonly answerMs?: number;
  /** Messages per channel that may be under way; the same on all ranks. Default 64. */
  readonly credits?: number;
  /** Encrypts TCP links. Without it they are authenticated, not encrypted. */
  readonly tls?: TcpTls;
  /** Whether tensors carry a checksum over TCP and unix sockets. Default `auto`: over a network without TLS. */
  readonly checksum?: boolean | 'auto';
  /** Silence after which a TCP link counts as broken, in milliseconds (`TcpLinkSetting`). Default: it is not watched. */
  readonly silenceMs?: number;
}

/** The links of one rank in one generation: opened first, connected when all addresses are known. */
export interface Endpoint {
  /** What the other ranks must be told. */
  readonly address: LinkAddress;
  /**
   * Makes a link to every peer whose kind is `host`, `unix`, `tcp` or `nats`, and null for the others (`-`, `local`).
   * `addresses` and `kinds` are by rank; `inbox` is asked once for each peer that gets a link. Once.
   * @throws LinkError naming the pair, the kind and why, at the latest at the deadline; the endpoint is closed then
   */
  connect(
    addresses: readonly (LinkAddress | null)[],
    kinds: readonly (LinkKind | '-')[],
    inbox: (peer: number) => LinkInbox,
  ): Promise<(Link | null)[]>;
  /** Frames that were dropped, by reason, and bytes that were sent again over NATS. */
  statistics(): { readonly dropped: Readonly<FaultCounts>; readonly bytesResent: number };
  /** Listens no more and closes the links: `drain` (the default) lets what was posted leave first. */
  close(reason: string, how?: 'drain' | 'abort'): Promise<void>;
}

/** Two ranks could not be linked. */
export class LinkError extends Error {
  override readonly name = 'LinkError';
  readonly rank: number;
  readonly peer: number;
  readonly kind: LinkKind;

  constructor(rank: number, peer: number, kind: LinkKind, reason: string, cause?: unknown) {
    super(`rank ${rank} could not be linked to rank ${peer} over ${kind}: ${reason}`, { cause });
    this.rank = rank;
    this.peer = peer;
    this.kind = kind;
  }
}
