import type { HostTensor } from '../tensor/index.ts';
import type { SharedArena } from './arena-reduction.ts';

/** Options of a send. */
export interface SendOptions {
  /**
   * Hand the tensors' memory over instead of copying it; the sender must not touch it afterwards. Default false: the
   * transport copies before `send` resolves.
   */
  readonly transfer?: boolean;
}

/** Options of a receive. */
export interface RecvOptions {
  /** Overrides the transport's deadline, in milliseconds. */
  readonly deadlineMs?: number;
}

/** A receive that has not been answered yet, for hang diagnosis. */
export interface PendingWait {
  readonly from: number;
  readonly tag: string;
  /** Milliseconds since the wait began. */
  readonly sinceMs: number;
}

/** What a transport moved. */
export interface TransportStatistics {
  readonly messagesSent: number;
  readonly bytesSent: number;
  readonly messagesReceived: number;
  readonly bytesReceived: number;
  /** Frames from the wire that were dropped, by reason; absent where there is no wire. */
  readonly dropped?: Readonly<Record<string, number>>;
  /** Bytes that were sent again because they had been lost; absent where nothing is. */
  readonly bytesResent?: number;
  /** Bytes that a codec spared: `bytesSent` is what is left. Absent where nothing is encoded. */
  readonly bytesSaved?: number;
}

/**
 * Moves lists of tensors between the ranks of a job. Ordered per (from, to, tag), flow-controlled, with a deadline on
 * every wait. Tags are short readable strings (`act/s1/m3`): they appear in errors and traces.
 */
export interface Transport {
  readonly name: string;
  readonly rank: number;
  readonly world: number;
  /** Resolves when the tensors may be reused (or, with `transfer`, when they are on their way) and credit was available. */
  send(to: number, tag: string, tensors: readonly HostTensor[], options?: SendOptions): Promise<void>;
  /** @throws CommTimeout naming from, tag and the time waited; CommClosed when the peer or this transport was closed. */
  recv(from: number, tag: string, options?: RecvOptions): Promise<readonly HostTensor[]>;
  /**
   * Where messages with this tag pass a codec that changes values: replaces `values` by what every receiver will read if
   * they are sent, and returns true. Whoever keeps a value that it also sends calls this first, so that all have the same.
   */
  settle?(tag: string, values: Float32Array): boolean;
  /** Where all ranks are threads of one process that share memory: reductions meet there instead of sending messages. */
  readonly shared?: SharedArena | undefined;
  pending(): readonly PendingWait[];
  statistics(): TransportStatistics;
  close(): Promise<void>;
}

/** The ranks of a collective, in canonical order; every member passes the same list. */
export interface Group {
  readonly id: string;
  readonly ranks: readonly number[];
  /**
   * Where it is known: the machine of each member, as a number. Collectives may then let the members of one machine work
   * together first. Every member passes the same numbers.
   */
  readonly hosts?: readonly number[];
}
