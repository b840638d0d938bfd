import type { Socket } from 'node:net';
import type { NatsConnection } from '@nats-io/transport-node';
import { type DialPurpose, DirectListener, dialPeer, showAddress, type TcpAddress, type TcpTls } from './direct.ts';
import {
  type Endpoint,
  type EndpointOptions,
  type LinkAddress,
  LinkError,
  type LinkKind,
} from './endpoint-contract.ts';
import { type FaultCounts, noFaults } from './frame.ts';
import { checkSecret, type LinkTerms } from './handshake.ts';
import { hostId, ownAddress } from './host-id.ts';
import { HostLink } from './host-link.ts';
import { sharedMemoryAvailable } from './host-memory.ts';
import type { Link, LinkInbox } from './linked-transport.ts';
import { checkJobName, NatsLinks } from './nats-links.ts';
import { socketPath, sweepSharedMemory } from './own-files.ts';
import { TcpLink } from './tcp-link.ts';

/** Begins to listen for the links of a rank. @throws RangeError on a bad job name or secret; Error if a port is taken */
export async function openEndpoint(options: EndpointOptions): Promise<Endpoint> {
  checkJobName(options.job);
  checkSecret(options.secret);
  const endpoint = new LinkEndpoint(options, await sharedMemoryAvailable());
  await endpoint.open();
  return endpoint;
}

/** How long nobody may answer at an address, unless told otherwise, in milliseconds. */
const ANSWER_MS = 8000;

type DirectLink = TcpLink | HostLink;

interface DirectPeer {
  readonly link: DirectLink;
  readonly kind: LinkKind;
}

class LinkEndpoint implements Endpoint {
  readonly #options: EndpointOptions;
  readonly #terms: LinkTerms;
  readonly #sharedMemory: boolean;
  readonly #listeners: DirectListener[] = [];
  readonly #direct = new Map<number, DirectPeer>();
  readonly #all: Link[] = [];
  readonly #dropped = noFaults();
  /** Resolves when it is known who is linked how: diallers wait for it. */
  readonly #configured: Promise<void>;
  #configure: () => void = () => undefined;
  #nats: NatsLinks | null = null;
  #address: LinkAddress | null = null;
  #progress: () => void = () => undefined;
  #closed = false;
  #closing: Promise<void> | null = null;

  constructor(options: EndpointOptions, sharedMemory: boolean) {
    const { job, generation, world, credits = 64, secret } = options;
    this.#options = options;
    this.#terms = { job, generation, world, credits, secret };
    this.#sharedMemory = sharedMemory;
    this.#configured = new Promise((resolve) => {
      this.#configure = resolve;
    });
  }

  get address(): LinkAddress {
    return this.#address as LinkAddress;
  }

  async open(): Promise<void> {
    sweepSharedMemory();
    const { listen, nats } = this.#options;
    try {
      let tcp: LinkAddress['tcp'] = null;
      if (listen !== null) {
        const { host = '0.0.0.0', port = 0 } = listen ?? {};
        const bound = await this.#listen({ host, port }, this.#options.tls);
        const seen = nats?.info?.client_ip;
        const any = host === '0.0.0.0' || host === '::' || host === '';
        tcp = { host: any ? ownAddress(seen) : host, port: (bound as { port: number }).port };
      }
      let unix: string | null = null;
      if (process.platform !== 'win32') {
        unix = socketPath();
        await this.#listen({ path: unix }, undefined);
      }
      this.#address = { hostId: hostId(), tcp, unix, host: this.#sharedMemory && unix !== null };
    } catch (error) {
      await this.close('it could not be opened', 'abort');
      throw error;
    }
  }

  async connect(
    addresses: readonly (LinkAddress | null)[],
    kinds: readonly (LinkKind | '-')[],
    inbox: (peer: number) => LinkInbox,
  ): Promise<(Link | null)[]> {
    const { rank, world, deadlineMs, nats } = this.#options;
    if (addresses.length !== world || kinds.length !== world)
      throw new RangeError(
        `a world of ${world} needs as many addresses (${addresses.length}) and kinds (${kinds.length})`,
      );
    const until = performance.now() + deadlineMs;
    try {
      const links = kinds.map((kind, peer) => {
        if (kind === '-' || kind === 'local' || peer === rank) return null;
        const link = kind === 'nats' ? this.#overNats(peer, nats, inbox) : this.#directly(peer, kind, inbox);
        this.#all.push(link);
        return link;
      });
      this.#configure();
      const outward = [...this.#direct].map(([peer, { kind, link }]) =>
        this.#dial(peer, kind, link, addresses[peer] ?? null, until),
      );
      await Promise.all([...outward, this.#allHaveDialled(until), this.#allHeard(until)]);
      await this.#stopListening();
      return links;
    } catch (error) {
      await this.close('a link of this rank could not be made', 'abort');
      throw error;
    }
  }

  statistics(): { dropped: FaultCounts; bytesResent: number } {
    return { dropped: { ...this.#dropped }, bytesResent: this.#nats?.resentBytes ?? 0 };
  }

  close(reason: string, how: 'drain' | 'abort' = 'drain'): Promise<void> {
    this.#closing ??= this.#close(reason, how);
    return this.#closing;
  }

  async #close(reason: string, how: 'drain' | 'abort'): Promise<void> {
    this.#closed = true;
    this.#configure();
    this.#progress();
    await Promise.all([this.#stopListening(), ...this.#all.map((link) => link.close(reason, how))]);
    await this.#nats?.close();
  }

  async #listen(address: TcpAddress, tls: TcpTls | undefined): Promise<TcpAddress> {
    const listener = new DirectListener({
      terms: this.#terms,
      rank: this.#options.rank,
      tls,
      admit: (peer, purpose) => this.#admit(peer, purpose, 'path' in address),
      accepted: (peer, purpose, socket, rest) => this.#accepted(peer, purpose, socket, rest),
    });
    this.#listeners.push(listener);
    return listener.listen(address);
  }

  async #stopListening(): Promise<void> {
    await Promise.all(this.#listeners.map((listener) => listener.close()));
  }

  #overNats(peer: number, nats: NatsConnection | null, inbox: (peer: number) => LinkInbox): Link {
    if (!nats) throw new LinkError(this.#options.rank, peer, 'nats', 'this end has no connection to NATS');
    this.#nats ??= new NatsLinks(nats, this.#options, this.#dropped);
    return this.#nats.link(peer, inbox(peer));
  }

  #directly(peer: number, kind: LinkKind, inbox: (peer: number) => LinkInbox): Link {
    const { job, generation, rank, maxTensorBytes: maxDataBytes = 2 ** 30, checksum = 'auto' } = this.#options;
    const silenceMs = kind === 'tcp' ? (this.#options.silenceMs ?? null) : null;
    const setting = { job, generation, rank, peer, maxDataBytes, checksum, dropped: this.#dropped, silenceMs };
    if (kind === 'host' && !this.address.host)
      throw new LinkError(rank, peer, kind, 'this end cannot map shared memory (is the koffi package installed?)');
    const link =
      kind === 'host' ? new HostLink(setting, inbox(peer), () => this.#progress()) : new TcpLink(setting, inbox(peer));
    this.#direct.set(peer, { link, kind });
    return link;
  }

  async #admit(peer: number, purpose: DialPurpose, overUnix: boolean): Promise<string | null> {
    await this.#configured;
    if (this.#closed) return `rank ${this.#options.rank} has closed its endpoint`;
    const { kind, link } = this.#direct.get(peer) ?? {};
    const wanted = purpose === 'host' ? 'host' : overUnix ? 'unix' : 'tcp';
    if (!link || kind !== wanted)
      return `rank ${peer} wants a link over ${wanted}, but rank ${this.#options.rank} was told ${kind ?? 'none of these'}`;
    return link.canSend ? `rank ${peer} has a link already` : null;
  }

  #accepted(peer: number, purpose: DialPurpose, socket: Socket, rest: Uint8Array): void {
    const { link } = this.#direct.get(peer) ?? {};
    if (!link || this.#closed) socket.destroy();
    else if (purpose === 'host') (link as HostLink).attachOut(socket, rest);
    else {
      (link as TcpLink).attachOut(socket);
      this.#progress();
    }
  }

  async #dial(peer: number, kind: LinkKind, link: DirectLink, to: LinkAddress | null, until: number): Promise<void> {
    const { rank, tls, answerMs = ANSWER_MS } = this.#options;
    const address: TcpAddress | null = kind === 'tcp' ? (to?.tcp ?? null) : to?.unix ? { path: to.unix } : null;
    if (!address) throw new LinkError(rank, peer, kind, `rank ${peer} told no address for it`);
    if (kind !== 'tcp' && to?.hostId !== this.address.hostId)
      throw new LinkError(
        rank,
        peer,
        kind,
        `the two are on different machines (${this.address.hostId}, ${to?.hostId})`,
      );
    try {
      await dialPeer({
        terms: this.#terms,
        rank,
        peer,
        address,
        purpose: kind === 'host' ? 'host' : 'stream',
        tls: kind === 'tcp' ? tls : undefined,
        until,
        answerBy: performance.now() + answerMs,
        stopped: () => this.#closed,
        reader: link,
        linked: (socket, rest) => link.attachIn(socket, rest),
      });
    } catch (error) {
      throw new LinkError(rank, peer, kind, (error as Error).message, error);
    }
  }

  /** Resolves when every peer with a direct link has dialled this rank. */
  #allHaveDialled(until: number): Promise<void> {
    const { rank, deadlineMs } = this.#options;
    return new Promise((resolve, reject) => {
      const missing = () =>
        [...this.#direct].filter(([, { link }]) => !(link instanceof HostLink ? link.connected : link.canSend));
      const failed = (why: string) => {
        const [peer, { kind }] = missing()[0] as [number, DirectPeer];
        const refusals = this.#listeners.flatMap((listener) => listener.refusals);
        const more = refusals.length > 0 ? ` (refused: ${refusals.join('; ')})` : '';
        reject(new LinkError(rank, peer, kind, `${why}${more}`));
      };
      const timer = setTimeout(
        () => {
          const at = this.#listeners.map(({ address }) => (address ? showAddress(address) : '?')).join(' or ');
          const who = missing().map(([peer]) => peer);
          failed(`waited ${deadlineMs} ms for rank ${who.join(', ')} to dial it at ${at}`);
        },
        Math.max(1, until - performance.now()),
      );
      this.#progress = () => {
        const broken = [...this.#direct].find(([, { link }]) => link instanceof HostLink && link.failure !== null);
        if (missing().length > 0 && !this.#closed && !broken) return;
        clearTimeout(timer);
        if (broken) reject(new LinkError(rank, broken[0], 'host', (broken[1].link as HostLink).failure ?? ''));
        else if (missing().length === 0) resolve();
        else failed('the endpoint was closed meanwhile');
      };
      this.#progress();
    });
  }

  /** Resolves when every peer over NATS has been heard. */
  async #allHeard(until: number): Promise<void> {
    if (!this.#nats) return;
    const { rank, deadlineMs } = this.#options;
    await this.#nats.open();
    if (await this.#nats.allHeard(until, () => this.#closed)) return;
    const peers = this.#nats.unheard;
    const why = this.#closed ? 'the endpoint was closed meanwhile' : `nothing was heard of it within ${deadlineMs} ms`;
    const more = peers.length > 1 ? ` (nor of rank ${peers.slice(1).join(', ')})` : '';
    throw new LinkError(rank, peers[0] ?? rank, 'nats', `${why}${more}; is it of the same job and generation?`);
  }
}
