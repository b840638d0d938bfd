import { randomBytes } from 'node:crypto';
import type { NatsConnection, NodeConnectionOptions } from '@nats-io/transport-node';
import { noFaults } from './frame.ts';
import { LinkedTransport, type LinkedTransportOptions } from './linked-transport.ts';
import { NatsLink, type NatsSetting, within } from './nats-link.ts';
import type { Transport } from './transport.ts';

/** Options of a transport over NATS. */
export interface NatsOptions extends LinkedTransportOptions {
  readonly rank: number;
  readonly world: number;
  /** The job's name: letters, digits, `-` and `_`. Subjects are `plexus.<job>.<from>.<to>`. */
  readonly job: string;
  readonly generation?: number;
  /**
   * Where the server is and how to log in, or a connection that exists (also one over WebSocket), which is then not closed
   * with the transport. A connection that is made here never gives up: a server that is away is a matter of deadlines.
   */
  readonly nats: NodeConnectionOptions | NatsConnection;
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

/**
 * A transport through a NATS server (or cluster), for ranks that share nothing else. Core NATS loses what is under way
 * when a connection or a server breaks, and knows no back-pressure; so each pair of ranks has a stream of its own in either
 * direction with a window, positions and retransmission. The job's ranks may start in any order.
 * @throws RangeError on a job name that is no subject; the client's own error if no server answers or the login fails
 */
export async function createNatsTransport(options: NatsOptions): Promise<Transport> {
  const { rank, world, job, generation = 0, nats, deadlineMs = 60_000 } = options;
  if (!/^[\w-]{1,64}$/.test(job))
    throw new RangeError(`job "${job}" cannot be part of a NATS subject: 1 to 64 letters, digits, - and _`);
  const own = !isConnection(nats);
  const connection = own
    ? // Loaded when it is used: it takes a thread as long to start as all the rest of this room.
      await (await import('@nats-io/transport-node')).connect({
        maxReconnectAttempts: -1,
        reconnectTimeWait: 100,
        reconnectJitter: 50,
        timeout: Math.min(deadlineMs, 20_000),
        name: `plexus ${job} rank ${rank}`,
        ...nats,
      })
    : nats;
  const dropped = noFaults();
  const setting: NatsSetting = {
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
    state: { up: true },
  };
  const links: (NatsLink | null)[] = [];
  const transport = new LinkedTransport(
    { name: 'nats', rank, world },
    options,
    (peer, inbox) => {
      const link = peer === rank ? null : new NatsLink(setting, peer, inbox);
      links.push(link);
      return link;
    },
    {
      statistics: () => ({
        dropped: { ...dropped },
        bytesResent: links.reduce((sum, link) => sum + (link?.resentBytes ?? 0), 0),
      }),
      close: async () => {
        subscription.unsubscribe();
        // (The last confirmations are on their way; a server that is away is not waited for.)
        if (setting.state.up && !connection.isClosed()) await within(connection.flush(), setting.lingerMs);
        if (own) await connection.close();
      },
    },
  );
  // A callback, not an iterator: iterators queue without bound. The sender's rank is the subject's third part.
  const subscription = connection.subscribe(setting.subject('*', rank), {
    callback: (error, message) => {
      if (error) {
        for (const link of links) link?.lost(`NATS: ${error.message}`);
        return;
      }
      const link = links[Number(message.subject.split('.')[2])];
      if (link) link.arrived(message.data);
      else dropped.peer += 1;
    },
  });
  void follow(connection, setting, links);
  await connection.flush();
  for (const link of links) link?.hello();
  return transport;
}

/** Keeps the links informed of the connection's fate. */
async function follow(
  connection: NatsConnection,
  setting: NatsSetting,
  links: readonly (NatsLink | null)[],
): Promise<void> {
  void connection.closed().then((error) => {
    setting.state.up = false;
    const reason = `the connection to NATS was closed${error ? `: ${error.message}` : ''}`;
    for (const link of links) link?.lost(reason);
  });
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') setting.state.up = false;
    // (Login that was refused in mid-run closes the connection; a subject that is not permitted does not.)
    if (status.type === 'error' && status.error.name === 'PermissionViolationError')
      for (const link of links) link?.lost(`NATS: ${status.error.message}`);
    if (status.type !== 'reconnect') continue;
    setting.state.up = true;
    for (const link of links) link?.resume();
  }
}

function isConnection(nats: NodeConnectionOptions | NatsConnection): nats is NatsConnection {
  return 'publish' in nats && typeof nats.publish === 'function';
}
