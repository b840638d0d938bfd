import { Socket } from 'node:net';
import type { NatsConnection } from '@nats-io/transport-node';

/*
 * What is used of the NATS client beyond its interface. It copies every message together twice: with command and line end
 * before it is written, and into memory that doubles as it comes in, 4.6 bytes of fresh memory a byte. At a megabyte a
 * message that, the page faults and the garbage collection that begins with every few of them are two thirds of the CPU
 * time of both ends. Everything here asks whether what it needs is there; where it is not (over WebSocket, or in a
 * client that is built otherwise) the client's own ways are taken.
 */

interface Inside {
  readonly protocol?: {
    readonly connected?: boolean;
    readonly infoReceived?: boolean;
    readonly transport?: { readonly socket?: unknown; send?(bytes: Uint8Array): void };
    readonly parser?: Parser;
    flushPending?(): void;
    outBytes?: number;
    outMsgs?: number;
  };
}

interface Parser {
  parse?(bytes: Uint8Array): void;
  /** The message that is coming in: which subscription it is for, and how long it is. */
  readonly ma?: { readonly sid?: number; readonly size?: number };
  /** What is here of it, if the bytes of one read do not hold it all. */
  msgBuf?: MessageBuffer | undefined;
}

interface MessageBuffer {
  readonly length: number;
  bytes(options?: { readonly copy: boolean }): Uint8Array;
  write(bytes: Uint8Array): number;
  writeByte(byte: number): number;
}

/** Room for the length of a payload and a line end. */
const LENGTH_BYTES = 16;
const CR = 13;
const LF = 10;
const utf8 = new TextEncoder();

/** Publishes messages of one subject, large ones without copies. */
export class FramePublisher {
  /** Room that is wanted before and behind a payload. */
  readonly headBytes: number;
  readonly tailBytes = 2;
  readonly #connection: NatsConnection;
  readonly #subject: string;
  readonly #command: Uint8Array;

  constructor(connection: NatsConnection, subject: string) {
    this.#connection = connection;
    this.#subject = subject;
    this.#command = utf8.encode(`PUB ${subject} `);
    this.headBytes = (this.#command.length + LENGTH_BYTES + 7) & ~7;
  }

  /** Publishes a payload that is not touched until this turn of the event loop has ended. */
  publish(payload: Uint8Array): void {
    if (!this.#connection.isClosed()) this.#connection.publish(this.#subject, payload);
  }

  /**
   * Publishes `length` bytes that lie `headBytes` behind the start of a buffer, which is not touched until they have
   * arrived: it goes to the socket as it is, with the command written before and the line end behind the bytes.
   */
  publishIn(buffer: Uint8Array, length: number): void {
    const { headBytes } = this;
    const { protocol } = this.#connection as NatsConnection & Inside;
    const transport = protocol?.transport;
    // (Before a new connection has said who it is, nothing may be put in its way.)
    if (!protocol?.connected || !protocol.flushPending || !transport?.send || !(transport.socket instanceof Socket)) {
      this.publish(buffer.subarray(headBytes, headBytes + length));
      return;
    }
    const end = utf8.encode(`${length}\r\n`);
    const start = headBytes - end.length - this.#command.length;
    buffer.set(this.#command, start);
    buffer.set(end, headBytes - end.length);
    buffer[headBytes + length] = CR;
    buffer[headBytes + length + 1] = LF;
    // What was published before goes first.
    protocol.flushPending();
    transport.send(buffer.subarray(start, headBytes + length + 2));
    if (protocol.outMsgs !== undefined) protocol.outMsgs += 1;
    if (protocol.outBytes !== undefined) protocol.outBytes += length;
  }
}

/** Messages from this size on are put together in memory that is used again. */
const LARGE_BYTES = 32_768;

const assemblies = new WeakMap<NatsConnection, { readonly sids: Set<number>; readonly memory: Assembly }>();

/**
 * Puts the large messages of a subscription together in memory that the next one uses again: they must be read before its
 * callback returns. To be called again when the connection was made anew.
 */
export function assembleInPlace(connection: NatsConnection, sid: number): void {
  let found = assemblies.get(connection);
  if (!found) {
    found = { sids: new Set(), memory: new Assembly() };
    assemblies.set(connection, found);
  }
  const { sids, memory } = found;
  sids.add(sid);
  const parser = (connection as NatsConnection & Inside).protocol?.parser;
  if (!parser || typeof parser.parse !== 'function' || Object.hasOwn(parser, 'parse')) return;
  const parse = parser.parse.bind(parser);
  parser.parse = (bytes) => {
    parse(bytes);
    const { msgBuf, ma } = parser;
    if (msgBuf === undefined || msgBuf === memory || !ma?.size || ma.size < LARGE_BYTES || !sids.has(ma.sid ?? -1))
      return;
    memory.begin(msgBuf.bytes({ copy: false }), ma.size);
    parser.msgBuf = memory;
  };
}

/** What the client's parser wants of a buffer. */
class Assembly implements MessageBuffer {
  length = 0;
  #memory = new Uint8Array(0);

  begin(first: Uint8Array, size: number): void {
    if (this.#memory.length < size) this.#memory = new Uint8Array(size);
    this.length = 0;
    this.write(first);
  }

  bytes(): Uint8Array {
    return this.#memory.subarray(0, this.length);
  }

  write(bytes: Uint8Array): number {
    this.#memory.set(bytes, this.length);
    this.length += bytes.length;
    return bytes.length;
  }

  writeByte(byte: number): number {
    this.#memory[this.length++] = byte;
    return 1;
  }
}
