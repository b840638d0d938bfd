import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import type { DialPurpose } from './direct.ts';
import { FRAME_VERSION } from './frame.ts';

/** What both ends of a direct link must agree on. */
export interface LinkTerms {
  readonly job: string;
  readonly generation: number;
  readonly world: number;
  /** Messages a channel may have under way. */
  readonly credits: number;
  /** Known to the ranks of the job and to nobody else. */
  readonly secret: string | Uint8Array;
}

/** The other end of a link is not who it should be, or does not agree on the terms. */
export class HandshakeError extends Error {
  override readonly name = 'HandshakeError';
}

/** @throws RangeError if the secret is too short to be one */
export function checkSecret(secret: string | Uint8Array): void {
  if (Buffer.byteLength(secret) < 16)
    throw new RangeError('the secret of direct links must have at least 16 bytes; take randomBytes(32), say');
}

const MAX_MESSAGE_BYTES = 2048;
const NONCE_BYTES = 32;
/** What may wait to be read, while the other end has not been told to go on, and just after. */
const MAX_UNREAD_BYTES = 2 ** 20;
const PURPOSES: readonly unknown[] = ['stream', 'host', 'blob'] satisfies DialPurpose[];

type Message = Readonly<Record<string, unknown>>;

/**
 * The talk before the first frame: messages of JSON, each behind its length in two bytes. What comes after the last of
 * them belongs to the frames (`rest`).
 */
export class Greeting {
  readonly #socket: Socket;
  #buffer = new Uint8Array(0);
  #waiter: { readonly resolve: (message: Message) => void; readonly reject: (error: Error) => void } | null = null;
  #ended: Error | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Bytes came from the other end. */
  push(bytes: Uint8Array): void {
    if (this.#ended) return;
    if (this.#buffer.length + bytes.length > MAX_UNREAD_BYTES) {
      this.end(new HandshakeError(`more than ${MAX_UNREAD_BYTES} bytes in place of a greeting`));
      return;
    }
    const joined = new Uint8Array(this.#buffer.length + bytes.length);
    joined.set(this.#buffer);
    joined.set(bytes, this.#buffer.length);
    this.#buffer = joined;
    this.#serve();
  }

  /** Nothing more will come. */
  end(error: Error): void {
    this.#ended ??= error;
    this.#waiter?.reject(this.#ended);
    this.#waiter = null;
  }

  send(message: Message): void {
    const text = Buffer.from(JSON.stringify(message));
    const length = Buffer.alloc(2);
    length.writeUInt16BE(text.length);
    this.#socket.write(Buffer.concat([length, text]));
  }

  next(): Promise<Message> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      this.#waiter = { resolve, reject };
      this.#serve();
    });
  }

  /** What came after the messages that were read. */
  rest(): Uint8Array {
    return this.#buffer;
  }

  #serve(): void {
    const buffer = this.#buffer;
    const waiter = this.#waiter;
    if (!waiter || buffer.length < 2) return;
    const length = ((buffer[0] as number) << 8) | (buffer[1] as number);
    if (length > MAX_MESSAGE_BYTES) {
      this.end(
        new HandshakeError(`a greeting of ${length} bytes (at most ${MAX_MESSAGE_BYTES}): no rank of a job talks so`),
      );
      return;
    }
    if (buffer.length < 2 + length) return;
    this.#waiter = null;
    this.#buffer = buffer.slice(2 + length);
    try {
      const message: unknown = JSON.parse(Buffer.from(buffer.subarray(2, 2 + length)).toString());
      if (typeof message !== 'object' || message === null) throw new TypeError('not an object');
      waiter.resolve(message as Message);
    } catch (error) {
      waiter.reject(new HandshakeError(`a greeting that is not JSON: ${(error as Error).message}`));
    }
  }
}

/**
 * Greets a listening rank and has it prove that it knows the secret, then proves the same: HMAC-SHA256 over both ends'
 * fresh random numbers and the terms, with the two roles told apart, so that no answer can be used for another question.
 * `answered` is called once the other end has proved itself; it may still let this one wait before it agrees.
 * @throws HandshakeError saying what does not agree
 */
export async function greetListener(
  greeting: Greeting,
  terms: LinkTerms,
  rank: number,
  peer: number,
  purpose: DialPurpose = 'stream',
  answered: () => void = () => undefined,
): Promise<void> {
  const nonce = randomBytes(NONCE_BYTES).toString('hex');
  greeting.send({ ...openTerms(terms), rank, to: peer, purpose, nonce });
  const answer = await greeting.next();
  if (typeof answer.refused === 'string') throw new HandshakeError(`rank ${peer} refused the link: ${answer.refused}`);
  const transcript = [rank, peer, purpose, nonce, String(answer.nonce)];
  const wrong = disagreement(terms, answer);
  if (wrong) throw new HandshakeError(`rank ${peer} ${wrong}`);
  if (!proves(answer.proof, terms, 'listener', transcript))
    throw new HandshakeError(`what listens where rank ${peer} should be does not know the job's secret`);
  answered();
  greeting.send({ proof: proof(terms, 'dialer', transcript) });
  const welcome = await greeting.next();
  if (welcome.welcome === true) return;
  throw new HandshakeError(`rank ${peer} refused the link: ${String(welcome.refused).slice(0, 200)}`);
}

/**
 * The other side of `greetListener`. Resolves with the rank that dialled and what for, once it has proved itself and `admit`
 * has said nothing against it.
 * @throws HandshakeError; the other end has been told why
 */
export async function greetDialer(
  greeting: Greeting,
  terms: LinkTerms,
  rank: number,
  admit: (peer: number, purpose: DialPurpose) => string | null | Promise<string | null>,
): Promise<{ readonly peer: number; readonly purpose: DialPurpose }> {
  const refuse = (reason: string): never => {
    greeting.send({ refused: reason });
    throw new HandshakeError(reason);
  };
  const hello = await greeting.next();
  const { rank: peer, to, purpose } = hello;
  if (typeof peer !== 'number' || !Number.isInteger(peer) || peer < 0 || peer >= terms.world || peer === rank)
    return refuse(`no rank ${String(peer).slice(0, 20)} has a link to rank ${rank} of ${terms.world}`);
  const wrong = disagreement(terms, hello);
  if (wrong) return refuse(`rank ${peer} ${wrong}`);
  if (to !== rank) return refuse(`rank ${peer} looks for rank ${String(to).slice(0, 20)}, this is rank ${rank}`);
  if (!PURPOSES.includes(purpose)) return refuse(`rank ${peer} wants a link for an unknown purpose`);
  const nonce = randomBytes(NONCE_BYTES).toString('hex');
  const transcript = [peer, rank, purpose as DialPurpose, String(hello.nonce), nonce];
  greeting.send({ ...openTerms(terms), nonce, proof: proof(terms, 'listener', transcript) });
  const answer = await greeting.next();
  if (!proves(answer.proof, terms, 'dialer', transcript))
    return refuse(`who calls itself rank ${peer} does not know the job's secret`);
  const objection = await admit(peer, purpose as DialPurpose);
  if (objection) return refuse(objection);
  greeting.send({ welcome: true });
  return { peer, purpose: purpose as DialPurpose };
}

function openTerms({ job, generation, world, credits }: LinkTerms): Message {
  return { plexus: FRAME_VERSION, job, generation, world, credits };
}

function disagreement(terms: LinkTerms, theirs: Message): string | null {
  const mine = openTerms(terms);
  const names = {
    plexus: 'speaks version',
    job: 'is of job',
    generation: 'is of generation',
    world: 'is of a world of',
    credits: 'uses credits',
  };
  for (const [key, words] of Object.entries(names))
    if (theirs[key] !== mine[key])
      return `${words} ${JSON.stringify(theirs[key])?.slice(0, 80)}, this end ${JSON.stringify(mine[key])}`;
  return null;
}

function proof(terms: LinkTerms, role: string, transcript: readonly (string | number)[]): string {
  return createHmac('sha256', terms.secret)
    .update(JSON.stringify(['plexus link', role, openTerms(terms), ...transcript]))
    .digest('hex');
}

function proves(given: unknown, terms: LinkTerms, role: string, transcript: readonly (string | number)[]): boolean {
  const expected = Buffer.from(proof(terms, role, transcript));
  const actual = Buffer.from(typeof given === 'string' ? given : '');
  return actual.length === expected.length && timingSafeEqual(actual, expected);
}
