import { randomUUID } from 'node:crypto';
import type { Msg, NatsConnection } from '@nats-io/transport-node';
import {
  type Answer,
  Assembly,
  ControlError,
  cut,
  packMessage,
  packPart,
  unpackMessage,
  unpackPart,
} from './control-parts.ts';
import { listen } from './nats-listen.ts';
import { connectionUp, watchConnection } from './nats-status.ts';

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
  readonly #unlisten: () => void;
  readonly #unwatch: () => void;
  #seq = 0;
  #closed: string | null = null;

  constructor(connection: NatsConnection, options: ControlRequesterOptions = {}) {
    this.#connection = connection;
    this.#repeatMs = options.repeatMs ?? 250;
    this.#maxPending = options.maxPending ?? 1024;
    this.#inbox = `${options.inboxPrefix ?? '_INBOX'}.${randomUUID().replaceAll('-', '')}`;
    this.#unlisten = listen(
      connection,
      this.#inbox,
      (message) => this.#answered(message),
      (error) => this.#fail(`NATS: ${error.message}`),
    );
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
    this.#unlisten();
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
