import type { Msg, NatsConnection } from '@nats-io/transport-node';
import {
  type Answer,
  Assembly,
  cut,
  type Part,
  packMessage,
  packPart,
  unpackMessage,
  unpackPart,
} from './control-parts.ts';
import { listen } from './nats-listen.ts';
import { connectionUp } from './nats-status.ts';
import { RecentlyHeard } from './recently-heard.ts';

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
  readonly #unlisten: () => void;
  readonly #requesters = new RecentlyHeard<Requester>(MAX_REQUESTERS, (floor) => ({
    floor,
    incomplete: new Map(),
    answers: new Map(),
  }));
  #closed = false;

  /** `onError`: the subscription itself failed (a subject that is not permitted, say). */
  constructor(connection: NatsConnection, subject: string, handler: ControlHandler, onError?: (error: Error) => void) {
    this.#connection = connection;
    this.#handler = handler;
    this.#unlisten = listen(connection, subject, (message) => this.#arrived(message), onError);
  }

  /** Takes no more requests; those that are being done are not answered any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unlisten();
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
    const requester = this.#requesters.of(from, floor);
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
