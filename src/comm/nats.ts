import type { NatsConnection, NodeConnectionOptions } from '@nats-io/transport-node';
import { noFaults } from './frame.ts';
import { LinkedTransport, type LinkedTransportOptions } from './linked-transport.ts';
import { connectNats } from './nats-connect.ts';
import { checkJobName, type NatsLinkLimits, NatsLinks } from './nats-links.ts';
import type { Transport } from './transport.ts';

/** Options of a transport over NATS. */
export interface NatsOptions extends LinkedTransportOptions, NatsLinkLimits {
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
}

/**
 * A transport through a NATS server (or cluster), for ranks that share nothing else. Core NATS loses what is under way
 * when a connection or a server breaks, and knows no back-pressure; so each pair of ranks has a stream of its own in either
 * direction with a window, positions and retransmission. The job's ranks may start in any order.
 * @throws RangeError on a job name that is no subject; NatsConnectError if no server answers or the login fails
 */
export async function createNatsTransport(options: NatsOptions): Promise<Transport> {
  const { rank, world, job, nats, deadlineMs = 60_000 } = options;
  checkJobName(job);
  const own = !isConnection(nats);
  const dropped = noFaults();
  const connection = own
    ? await connectNats({
        name: `plexus ${job} rank ${rank}`,
        timeoutMs: Math.min(deadlineMs, 20_000),
        ...nats,
        servers: nats.servers ?? '127.0.0.1',
      })
    : nats;
  const links = new NatsLinks(connection, options, dropped);
  const transport = new LinkedTransport(
    { name: 'nats', rank, world },
    options,
    (peer, inbox) => (peer === rank ? null : links.link(peer, inbox)),
    {
      statistics: () => ({ dropped: { ...dropped }, bytesResent: links.resentBytes }),
      close: async () => {
        await links.close();
        if (own) await connection.close();
      },
    },
  );
  await links.open();
  return transport;
}

function isConnection(nats: NodeConnectionOptions | NatsConnection): nats is NatsConnection {
  return 'publish' in nats && typeof nats.publish === 'function';
}
