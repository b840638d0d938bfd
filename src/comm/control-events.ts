import { randomUUID } from 'node:crypto';
import type { Msg, NatsConnection } from '@nats-io/transport-node';
import { Assembly, ControlError, cut, packMessage, packPart, unpackMessage, unpackPart } from './control-parts.ts';
import { listen } from './nats-listen.ts';
import { connectionUp, watchConnection } from './nats-status.ts';
import { RecentlyHeard } from './recently-heard.ts';

/** Limits of a stream of events. */
export interface EventSenderOptions {
  /** Wait before what is not acknowledged is sent again, in milliseconds. Default 250. */
  readonly repeatMs?: number;
  /** Events that may wait for acknowledgement. Default 4096. */
  readonly maxQueued?: number;
  /** Bytes, packed, that may wait for acknowledgement. Default 64 MiB. */
  readonly maxQueuedBytes?: number;
}

/** An event, or a part of a large one. */
interface Item {
  readonly seq: number;
  readonly part: number;
  readonly parts: number;
  readonly bytes: Uint8Array;
}

/** Items that are sent without an acknowledgement. */
const WINDOW = 32;

/**
 * Tells somebody a stream of events over core NATS: each is sent again until it is acknowledged, and they are taken in
 * order. Who takes them may change (another `EventReceiver` on the subject): it begins with the oldest event that is not
 * acknowledged.
 */
export class EventSender {
  readonly #connection: NatsConnection;
  readonly #subject: string;
  readonly #id = randomUUID();
  readonly #inbox = `_INBOX.${randomUUID().replaceAll('-', '')}`;
  readonly #repeatMs: number;
  readonly #maxQueued: number;
  readonly #maxQueuedBytes: number;
  readonly #unlisten: () => void;
  readonly #unwatch: () => void;
  /** Not acknowledged, oldest first. An event stays until all of its parts are. */
  readonly #items: Item[] = [];
  #events = 0;
  #bytes = 0;
  #next = 0;
  /** Items before this position were acknowledged. */
  #acknowledged = 0;
  /** Items before this position were sent. */
  #sent = 0;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #idle: (() => void)[] = [];
  #closed: string | null = null;

  constructor(connection: NatsConnection, subject: string, options: EventSenderOptions = {}) {
    this.#connection = connection;
    this.#subject = subject;
    this.#repeatMs = options.repeatMs ?? 250;
    this.#maxQueued = options.maxQueued ?? 4096;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 64 * 2 ** 20;
    this.#unlisten = listen(
      connection,
      this.#inbox,
      (message) => this.#answered(message),
      (error) => this.#end(`NATS: ${error.message}`),
    );
    this.#unwatch = watchConnection(connection, {
      up: () => this.#again(),
      closed: (reason) => this.#end(reason),
    });
  }

  /** Events that are not acknowledged yet. */
  get queued(): number {
    return this.#events;
  }

  /**
   * Appends an event to the stream; returns at once.
   * @throws ControlError if it is too large, too many wait (nobody has taken any for long), or the sender was closed
   */
  send(event: unknown): void {
    if (this.#closed !== null) throw new ControlError(`an event for ${this.#subject} cannot be sent: ${this.#closed}`);
    const bytes = packMessage(event, `an event for ${this.#subject}`);
    if (this.#events >= this.#maxQueued || this.#bytes + bytes.length > this.#maxQueuedBytes)
      throw new ControlError(
        `${this.#events} events (${this.#bytes} bytes) for ${this.#subject} wait to be acknowledged and no more are kept: nobody takes them (is there a coordinator?)`,
      );
    const pieces = cut(bytes, this.#connection.info?.max_payload ?? 65_536);
    pieces.forEach((piece, part) => {
      this.#items.push({ seq: this.#next++, part, parts: pieces.length, bytes: piece });
    });
    this.#events += 1;
    this.#bytes += bytes.length;
    this.#pump();
  }

  /** Resolves with true when all events were acknowledged, with false at the deadline or if the sender ends before. */
  drained(deadlineMs: number): Promise<boolean> {
    if (this.#events === 0) return Promise.resolve(true);
    if (this.#closed !== null) return Promise.resolve(false);
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        resolve(this.#events === 0);
      };
      const timer = setTimeout(() => {
        this.#idle = this.#idle.filter((other) => other !== done);
        resolve(false);
      }, deadlineMs);
      this.#idle.push(done);
    });
  }

  /** Gives up what is not acknowledged. The connection stays. */
  close(): void {
    this.#end('closed here');
  }

  #end(reason: string): void {
    if (this.#closed !== null) return;
    this.#closed = reason;
    this.#unwatch();
    if (this.#timer) clearTimeout(this.#timer);
    this.#unlisten();
    for (const done of this.#idle.splice(0)) done();
  }

  #pump(): void {
    const base = this.#items[0]?.seq ?? this.#next;
    if (connectionUp(this.#connection))
      for (; this.#sent < this.#next && this.#sent < this.#acknowledged + WINDOW; this.#sent++) {
        const { seq, part, parts, bytes } = this.#items[this.#sent - base] as Item;
        const packed = packPart({ from: this.#id, seq, part, parts, floor: base, bytes });
        this.#connection.publish(this.#subject, packed, { reply: this.#inbox });
      }
    if (this.#items.length > 0) this.#timer ??= setTimeout(() => this.#again(), this.#repeatMs);
  }

  /** Sends what is not acknowledged again. */
  #again(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    // Whoever takes the stream now may be another one, and has nothing of an event that is not whole yet.
    this.#acknowledged = this.#items[0]?.seq ?? this.#next;
    this.#sent = this.#acknowledged;
    this.#pump();
  }

  #answered(message: Msg): void {
    const part = unpackPart(message.data);
    if (!part || part.from !== this.#id) return;
    // `seq`: what is expected next.
    if (part.seq > this.#next || part.seq <= this.#acknowledged) return;
    this.#acknowledged = part.seq;
    this.#sent = Math.max(this.#sent, part.seq);
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    // Whole events that were acknowledged are forgotten.
    for (;;) {
      const first = this.#items[0];
      if (!first || first.seq + first.parts > part.seq) break;
      for (const { bytes } of this.#items.splice(0, first.parts)) this.#bytes -= bytes.length;
      this.#events -= 1;
    }
    if (this.#events === 0) for (const done of this.#idle.splice(0)) done();
    this.#pump();
  }
}

/** Takes an event. A promise holds the later events of that sender back; it must not reject. */
export type EventHandler = (event: unknown, about: { readonly sender: string }) => void | Promise<void>;

/** Senders that a receiver remembers; those that were not heard for longest are forgotten first. */
const MAX_SENDERS = 1024;

interface Source {
  expected: number;
  assembly: Assembly | null;
  /** Whole events that are not handled yet: how far the stream is when each is. At most the sender's window. */
  readonly ready: { readonly event: Uint8Array; readonly next: number; readonly reply: string }[];
  busy: boolean;
}

/** Takes the events that any number of `EventSender`s send to a subject, of each in order and once. */
export class EventReceiver {
  readonly #connection: NatsConnection;
  readonly #handler: EventHandler;
  readonly #unlisten: () => void;
  readonly #sources = new RecentlyHeard<Source>(MAX_SENDERS, (floor) => ({
    expected: floor,
    assembly: null,
    ready: [],
    busy: false,
  }));
  #closed = false;

  /** `onError`: the subscription itself failed (a subject that is not permitted, say). */
  constructor(connection: NatsConnection, subject: string, handler: EventHandler, onError?: (error: Error) => void) {
    this.#connection = connection;
    this.#handler = handler;
    this.#unlisten = listen(connection, subject, (message) => this.#arrived(message), onError);
  }

  /** Takes no more events; those that it has not acknowledged stay with their senders. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unlisten();
    this.#sources.clear();
  }

  #arrived(message: Msg): void {
    const item = unpackPart(message.data);
    const { reply } = message;
    if (!item || !reply || this.#closed) return;
    const { from: sender, seq, part, parts, floor } = item;
    const source = this.#sources.of(sender, floor);
    // (Another receiver has acknowledged what lies before; the sender does not have it any more.)
    if (floor > source.expected && !source.busy && source.ready.length === 0) {
      source.expected = floor;
      source.assembly = null;
    }
    if (seq !== source.expected) {
      // It came before, or something before it was lost. (What is being handled is acknowledged when that is done.)
      if (seq < source.expected && !source.busy) this.#acknowledge(sender, source.expected, reply);
      return;
    }
    source.assembly = part === 0 ? new Assembly(parts) : source.assembly;
    if (!source.assembly?.add(item)) return;
    source.expected += 1;
    const whole = source.assembly.whole;
    if (!whole) {
      if (!source.busy && part % (WINDOW / 4) === 0) this.#acknowledge(sender, source.expected, reply);
      return;
    }
    source.assembly = null;
    source.ready.push({ event: whole, next: source.expected, reply });
    if (!source.busy) void this.#handle(sender, source);
  }

  async #handle(sender: string, source: Source): Promise<void> {
    source.busy = true;
    for (let next = source.ready.shift(); next && !this.#closed; next = source.ready.shift()) {
      const done = this.#handler(unpackMessage(next.event), { sender });
      if (done) await done;
      if (!this.#closed) this.#acknowledge(sender, next.next, next.reply);
    }
    source.busy = false;
  }

  #acknowledge(sender: string, expected: number, reply: string): void {
    if (!connectionUp(this.#connection)) return; // (The sender asks again.)
    const bytes = new Uint8Array(0);
    this.#connection.publish(reply, packPart({ from: sender, seq: expected, part: 0, parts: 1, floor: 0, bytes }));
  }
}
