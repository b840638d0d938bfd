import { randomUUID } from 'node:crypto';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import {
  Assembly,
  ControlError,
  cut,
  type Part,
  packMessage,
  packPart,
  unpackMessage,
  unpackPart,
} from './control-parts.ts';
import { connectionUp, unheard, watchConnection } from './nats-status.ts';

/** Nobody answered a request in time. */
export class ControlTimeout extends ControlError {
  override readonly name = 'ControlTimeout';
}

/** Options of one request. */
export interface RequestOptions {
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

/** How requests are repeated. */
export interface ControlRequesterOptions {
  /** First wait before a request is repeated, in milliseconds; it grows to four times that. Default 250. */
  readonly repeatMs?: number;
  /** Requests that may wait for answers at a time. Default 1024. */
  readonly maxPending?: number;
  /** Beginning of the subject that answers come to, for logins that may not listen to everybody's. Default `_INBOX`. */
  readonly inboxPrefix?: string;
}

/** What an answer consists of. */
type Answer = { readonly ok: unknown } | { readonly error: string } | { readonly need: readonly number[] };

interface Pending {
  readonly subject: string;
  readonly seq: number;
  readonly pieces: readonly Uint8Array[];
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
  repeatMs: number;
  timer: ReturnType<typeof setTimeout> | null;
  answer: Assembly | null;
  /** Parts of the answer have come since the last repetition. */
  moved: boolean;
  nobody: boolean;
}

/**
 * Asks others over core NATS, which may lose messages: a request is repeated until it is answered, and the other end
 * (`ControlResponder`) does each once, however often it comes. Messages are anything that msgpack knows, of up to 64 MiB;
 * those that do not fit `max_payload` travel in parts.
 */
export class ControlRequester {
  readonly #connection: NatsConnection;
  readonly #id = randomUUID();
  readonly #inbox: string;
  readonly #repeatMs: number;
  readonly #maxPending: number;
  readonly #pending = new Map<number, Pending>();
  readonly #subscription: Subscription;
  readonly #unwatch: () => void;
  #seq = 0;
  #closed: string | null = null;

  constructor(connection: NatsConnection, options: ControlRequesterOptions = {}) {
    this.#connection = connection;
    this.#repeatMs = options.repeatMs ?? 250;
    this.#maxPending = options.maxPending ?? 1024;
    this.#inbox = `${options.inboxPrefix ?? '_INBOX'}.${randomUUID().replaceAll('-', '')}`;
    this.#subscription = connection.subscribe(this.#inbox, {
      callback: (error, message) => {
        if (error) this.#fail(`NATS: ${error.message}`);
        else this.#answered(message);
      },
    });
    this.#unwatch = watchConnection(connection, {
      up: () => {
        for (const pending of this.#pending.values()) this.#repeat(pending);
      },
      closed: (reason) => this.#fail(reason),
    });
  }

  /**
   * Resolves with what the responder's handler returned.
   * @throws ControlTimeout naming subject and time; ControlError with the handler's own words if it threw, or if the
   * message is too large, too many requests wait or this requester was closed; the signal's reason
   */
  request<A = unknown>(subject: string, message: unknown, options: RequestOptions): Promise<A> {
    const { deadlineMs, signal } = options;
    return new Promise<A>((resolve, reject) => {
      if (this.#closed !== null) return reject(new ControlError(`no request to ${subject}: ${this.#closed}`));
      if (signal?.aborted) return reject(signal.reason);
      if (this.#pending.size >= this.#maxPending)
        return reject(
          new ControlError(
            `${this.#pending.size} requests wait for answers already; nothing more is asked of ${subject}`,
          ),
        );
      const since = performance.now();
      const packed = packMessage(message, `a request to ${subject}`);
      const deadline = setTimeout(() => {
        const { nobody } = pending;
        const note = !connectionUp(this.#connection)
          ? 'the connection to NATS is down'
          : nobody
            ? 'nobody listens to it'
            : 'it was repeated all the time';
        settle(() =>
          reject(
            new ControlTimeout(
              `${subject} did not answer within ${Math.round(performance.now() - since)} ms (${note})`,
            ),
          ),
        );
      }, deadlineMs);
      const settle = (how: () => void) => {
        clearTimeout(deadline);
        if (pending.timer) clearTimeout(pending.timer);
        signal?.removeEventListener('abort', aborted);
        this.#pending.delete(pending.seq);
        how();
      };
      const aborted = () => settle(() => reject(signal?.reason));
      signal?.addEventListener('abort', aborted, { once: true });
      const pending: Pending = {
        subject,
        seq: this.#seq++,
        pieces: cut(packed, this.#connection.info?.max_payload ?? 65_536),
        resolve: (answer) => settle(() => resolve(answer as A)),
        reject: (error) => settle(() => reject(error)),
        repeatMs: this.#repeatMs,
        timer: null,
        answer: null,
        moved: false,
        nobody: false,
      };
      this.#pending.set(pending.seq, pending);
      this.#send(pending, pending.pieces.keys());
      this.#repeatLater(pending);
    });
  }

  /** Fails what waits. The connection stays. */
  close(reason = 'closed here'): void {
    this.#fail(reason);
  }

  #fail(reason: string): void {
    if (this.#closed !== null) return;
    this.#closed = reason;
    this.#unwatch();
    if (!this.#connection.isClosed()) this.#subscription.unsubscribe();
    for (const pending of [...this.#pending.values()])
      pending.reject(new ControlError(`${pending.subject} was not heard: ${reason}`));
  }

  #repeatLater(pending: Pending): void {
    pending.timer = setTimeout(() => {
      if (!pending.moved) this.#repeat(pending);
      pending.moved = false;
      pending.repeatMs = Math.min(pending.repeatMs * 1.5, this.#repeatMs * 4);
      this.#repeatLater(pending);
    }, pending.repeatMs);
  }

  /** Sends the last part again: if it is not the only one that was lost, the responder asks for the others. */
  #repeat(pending: Pending): void {
    if (connectionUp(this.#connection)) this.#send(pending, [pending.pieces.length - 1]);
  }

  #send({ subject, seq, pieces }: Pending, which: Iterable<number>): void {
    const floor = this.#pending.keys().next().value ?? seq;
    for (const part of which) {
      const bytes = pieces[part];
      if (!bytes) continue;
      const packed = packPart({ from: this.#id, seq, part, parts: pieces.length, floor, bytes });
      this.#connection.publish(subject, packed, { reply: this.#inbox });
    }
  }

  #answered(message: Msg): void {
    if (message.data.length === 0 && message.headers?.code === 503) {
      // The server says that nobody listens there; somebody may, in a moment. (It does not say where `there` is.)
      for (const pending of this.#pending.values()) if (!pending.answer) pending.nobody = true;
      return;
    }
    const part = unpackPart(message.data);
    const pending = part && this.#pending.get(part.seq);
    if (!part || !pending) return;
    pending.nobody = false;
    pending.moved = true;
    // (An answer that asks for parts and the one that comes when they are there can differ in length.)
    if (part.parts === 1) pending.answer = null;
    pending.answer ??= new Assembly(part.parts);
    pending.answer.add(part);
    const whole = pending.answer.whole;
    if (!whole) return;
    pending.answer = null;
    const answer = unpackMessage(whole) as Answer;
    if ('need' in answer) this.#send(pending, answer.need);
    else if ('error' in answer) pending.reject(new ControlError(`${pending.subject}: ${answer.error}`));
    else pending.resolve(answer.ok);
  }
}

/** Does what a request asks for. What it returns (or resolves to) is the answer; what it throws is told to who asked. */
export type ControlHandler = (
  message: unknown,
  about: { readonly requester: string; readonly subject: string },
) => unknown;

/** Requesters that a responder remembers; those that were not heard for longest are forgotten first. */
const MAX_REQUESTERS = 256;
/** Messages of one requester that may be incomplete at a time. */
const MAX_INCOMPLETE = 64;

interface Requester {
  /** Requests before this one are over. */
  floor: number;
  readonly incomplete: Map<number, Assembly>;
  /** Being done (null), or the packed answer. Bounded by what the requester waits for. */
  readonly answers: Map<number, Uint8Array | null>;
}

/**
 * Answers requests on a subject. Each request of each requester is handled once, in the order in which they came whole;
 * one that comes again gets the same answer again. Answers are kept for as long as they are waited for.
 */
export class ControlResponder {
  readonly #connection: NatsConnection;
  readonly #handler: ControlHandler;
  readonly #subscription: Subscription;
  readonly #requesters = new Map<string, Requester>();
  #closed = false;

  /** `onError`: the subscription itself failed (a subject that is not permitted, say). */
  constructor(connection: NatsConnection, subject: string, handler: ControlHandler, onError?: (error: Error) => void) {
    this.#connection = connection;
    this.#handler = handler;
    this.#subscription = connection.subscribe(subject, {
      callback: (error, message) => {
        if (!error) this.#arrived(message);
        else if (onError) onError(error);
        else unheard(error);
      },
    });
  }

  /** Takes no more requests; those that are being done are not answered any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#connection.isClosed()) this.#subscription.unsubscribe();
    this.#requesters.clear();
  }

  #arrived(message: Msg): void {
    const part = unpackPart(message.data);
    const { reply } = message;
    if (!part || !reply || this.#closed) return;
    const requester = this.#requester(part);
    if (part.seq < requester.floor) return;
    const known = requester.answers.get(part.seq);
    if (known) this.#send(reply, part.seq, known);
    if (known !== undefined) return;
    let assembly = requester.incomplete.get(part.seq);
    if (!assembly) {
      if (requester.incomplete.size >= MAX_INCOMPLETE) return;
      assembly = new Assembly(part.parts);
      requester.incomplete.set(part.seq, assembly);
    }
    assembly.add(part);
    const whole = assembly.whole;
    if (whole) {
      requester.incomplete.delete(part.seq);
      requester.answers.set(part.seq, null);
      void this.#handle(whole, part, requester, message.subject, reply);
      return;
    }
    // The last part is the one that is repeated: what is missing then was lost.
    if (part.part !== part.parts - 1) return;
    this.#send(reply, part.seq, packMessage({ need: assembly.missing.slice(0, 4096) } satisfies Answer, 'an answer'));
  }

  #requester({ from, floor }: Part): Requester {
    let requester = this.#requesters.get(from);
    if (requester) this.#requesters.delete(from);
    else requester = { floor, incomplete: new Map(), answers: new Map() };
    this.#requesters.set(from, requester);
    if (this.#requesters.size > MAX_REQUESTERS) this.#requesters.delete(this.#requesters.keys().next().value as string);
    if (floor > requester.floor) {
      requester.floor = floor;
      for (const seq of [...requester.answers.keys()]) if (seq < floor) requester.answers.delete(seq);
      for (const seq of [...requester.incomplete.keys()]) if (seq < floor) requester.incomplete.delete(seq);
    }
    return requester;
  }

  async #handle(whole: Uint8Array, part: Part, requester: Requester, subject: string, reply: string): Promise<void> {
    let answer: Uint8Array;
    try {
      const ok = await this.#handler(unpackMessage(whole), { requester: part.from, subject });
      answer = packMessage({ ok } satisfies Answer, `the answer to a request on ${subject}`);
    } catch (error) {
      answer = packMessage({ error: (error as Error).message ?? String(error) } satisfies Answer, 'an error');
    }
    if (this.#closed || part.seq < requester.floor) return;
    requester.answers.set(part.seq, answer);
    this.#send(reply, part.seq, answer);
  }

  #send(reply: string, seq: number, packed: Uint8Array): void {
    if (!connectionUp(this.#connection)) return; // (It is going to be asked for again.)
    const pieces = cut(packed, this.#connection.info?.max_payload ?? 65_536);
    pieces.forEach((bytes, part) => {
      const from = 'answer';
      this.#connection.publish(reply, packPart({ from, seq, part, parts: pieces.length, floor: 0, bytes }));
    });
  }
}
