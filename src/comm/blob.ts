import type { NatsConnection } from '@nats-io/transport-node';
import { BlobDialler, NoDirectWay } from './blob-dial.ts';
import {
  ANSWER_BYTES,
  BlobGone,
  type BlobPlace,
  type BlobRequest,
  BlobTimeout,
  blobSubject,
  packRequest,
  readAnswer,
} from './blob-wire.ts';
import { abortable, childSignal } from './child-signal.ts';
import { checksum } from './frame.ts';
import { HandshakeError } from './handshake.ts';
import { connectionUp } from './nats-status.ts';

/** What to fetch from whom. */
export interface FetchBlobOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  /** The process that offers it. */
  readonly owner: string;
  readonly blob: string;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** Where to put them; fresh memory by default. It may be shared memory. */
  readonly into?: Uint8Array;
  /** Told how many of the first bytes are there and right, as they come: over direct connections only. */
  readonly moved?: (bytes: number) => void;
  readonly secret: string | Uint8Array;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  /** `nats`: without trying direct connections. Default `auto`. */
  readonly way?: 'auto' | 'nats';
}

/** Bytes that are asked for at a time over NATS, where the server allows it: what a slow link moves within a moment. */
const CHUNK_BYTES = 256 * 1024;
/** Requests under way over NATS: few at first, more as answers come. */
const FIRST_REQUESTS = 4;
const MAX_REQUESTS = 8;
/** How long one request may take before it is sent again, in milliseconds; doubled each time, */
const ATTEMPT_MS = 1000;
/** up to this, in which 16 kB/s move a chunk: waiting longer would only waste the deadline where messages get lost. */
const MAX_ATTEMPT_MS = 16_000;
/** How long nobody may listen before the owner counts as gone, in milliseconds: it may be reconnecting. */
const ABSENT_MS = 10_000;
/** How long an owner that could not be reached directly is not tried again, in milliseconds. */
const AVOID_MS = 60_000;
/** The same where it refused: it may not have been told the secret yet. */
const AVOID_REFUSED_MS = 1000;

/**
 * Fetches a range of a blob that another process offers (`BlobServer`): over a direct connection where there is a way,
 * else over NATS, several chunks at a time; each is checked by its CRC-32 and asked for again if it does not come. It does
 * not matter how often it is done, so connections may break meanwhile.
 * @returns `into`, or fresh memory, with exactly `length` bytes
 * @throws BlobGone if the blob (or its range) is not there, BlobTimeout at the deadline, the signal's reason; all name
 * owner, blob and range
 */
export async function fetchBlob(options: FetchBlobOptions): Promise<Uint8Array> {
  const { owner, blob, offset, length, deadlineMs, signal: given, way = 'auto' } = options;
  const into = (options.into ?? new Uint8Array(length)).subarray(0, length);
  if (into.length !== length)
    throw new RangeError(`${length} bytes of blob "${blob}" do not fit into ${into.length} bytes`);
  if (length === 0) return into;
  const what = `bytes ${offset} to ${offset + length} of blob "${blob}" of ${owner}`;
  const own = childSignal(given);
  const { signal } = own;
  const timer = setTimeout(() => own.abort(LATE), deadlineMs);
  const notes: string[] = [];
  let done = 0;
  try {
    if (signal.aborted) throw signal.reason;
    if (way === 'auto') {
      const dialler = await diallerFor(options, signal, notes);
      if (dialler) {
        try {
          await dialler.fetch({ blob, offset, into }, options.secret, signal, (bytes) => {
            done = bytes;
            options.moved?.(bytes);
          });
          return into;
        } catch (error) {
          if (!(error instanceof NoDirectWay)) throw error;
          notes.push(`directly: ${error.message}`);
          avoid(options, error.cause instanceof HandshakeError ? AVOID_REFUSED_MS : AVOID_MS);
        }
      }
    }
    await overNats(options, into, done, signal, notes);
    return into;
  } catch (error) {
    if (error === LATE)
      throw new BlobTimeout(
        `${what} did not come within ${deadlineMs} ms${notes.length > 0 ? ` (${[...new Set(notes)].slice(-3).join('; ')})` : ''}`,
      );
    if (error instanceof BlobGone) throw new BlobGone(`${what}: ${error.message}`);
    throw error;
  } finally {
    clearTimeout(timer);
    own.release();
  }
}

const LATE = new Error('late');

// ---- direct connections

interface Known {
  readonly dialler: BlobDialler | null;
  readonly until: number;
}

/** What is known of how owners can be reached, by connection, since jobs and names mean something only there. */
const reachable = new WeakMap<NatsConnection, Map<string, Promise<Known>>>();
const MAX_KNOWN = 4096;

async function diallerFor(
  options: FetchBlobOptions,
  signal: AbortSignal,
  notes: string[],
): Promise<BlobDialler | null> {
  const { nats } = options;
  let owners = reachable.get(nats);
  if (!owners) {
    owners = new Map();
    reachable.set(nats, owners);
  }
  const key = keyOf(options);
  let known = owners.get(key);
  if (known && (await known).until < performance.now()) known = undefined;
  if (!known) {
    known = locate(options, signal, notes);
    owners.set(key, known);
    if (owners.size > MAX_KNOWN) owners.delete(owners.keys().next().value as string);
    // (A search that was given up says nothing about the owner.)
    known.catch(() => owners.delete(key));
  }
  return (await known).dialler;
}

async function locate(options: FetchBlobOptions, signal: AbortSignal, notes: string[]): Promise<Known> {
  const answer = await ask(options, { blob: null, offset: 0, length: 0 }, signal, notes);
  try {
    const place = JSON.parse(new TextDecoder().decode(answer)) as BlobPlace;
    return { dialler: new BlobDialler(options.job, options.owner, place), until: Number.POSITIVE_INFINITY };
  } catch (error) {
    if (!(error instanceof NoDirectWay)) throw error;
    return { dialler: null, until: performance.now() + AVOID_MS };
  }
}

function avoid(options: FetchBlobOptions, forMs: number): void {
  const owners = reachable.get(options.nats);
  void owners?.get(keyOf(options))?.then(({ dialler }) => dialler?.close());
  owners?.set(keyOf(options), Promise.resolve({ dialler: null, until: performance.now() + forMs }));
}

const keyOf = ({ job, owner }: FetchBlobOptions): string => `${job} ${owner}`;

// ---- over NATS

/** Fetches everything from byte `from` on, some chunks at a time. */
async function overNats(
  options: FetchBlobOptions,
  into: Uint8Array,
  from: number,
  signal: AbortSignal,
  notes: string[],
): Promise<void> {
  const { nats, blob, offset, length } = options;
  let next = from;
  let limit = FIRST_REQUESTS;
  const either = childSignal(signal);
  const running = new Set<Promise<void>>();
  const chunk = async (start: number, end: number) => {
    for (let at = start; at < end; ) {
      const request = { blob, offset: offset + at, length: end - at };
      const bytes = await ask(options, request, either.signal, notes, () => {
        limit = Math.max(1, limit >> 1);
      });
      into.set(bytes, at);
      at += bytes.length;
    }
    limit = Math.min(MAX_REQUESTS, limit + 1);
  };
  try {
    while (next < length || running.size > 0) {
      while (next < length && running.size < limit) {
        const most = Math.min(CHUNK_BYTES, (nats.info?.max_payload ?? 65_536) - ANSWER_BYTES);
        const end = Math.min(length, next + most);
        const one: Promise<void> = chunk(next, end).finally(() => running.delete(one));
        running.add(one);
        next = end;
      }
      await Promise.race(running);
    }
  } finally {
    either.abort(new Error('given up'));
    either.release();
    await Promise.allSettled(running);
  }
}

/**
 * Asks until it is answered. The data may be shorter than what was asked for.
 * @throws BlobGone, the signal's reason
 */
async function ask(
  options: FetchBlobOptions,
  request: BlobRequest,
  signal: AbortSignal,
  notes: string[],
  slow: () => void = () => undefined,
): Promise<Uint8Array> {
  const { nats, job, owner, secret } = options;
  const packed = packRequest(request, owner, secret);
  let absentSince: number | null = null;
  for (let attemptMs = ATTEMPT_MS; ; ) {
    if (signal.aborted) throw signal.reason;
    try {
      if (!connectionUp(nats)) {
        if (nats.isClosed()) throw new BlobGone('the connection to NATS was closed');
        note(notes, 'the connection to NATS is down');
        await pause(50, signal);
        continue;
      }
      const reply = await abortable(nats.request(blobSubject(job, owner), packed, { timeout: attemptMs }), signal);
      const answer = readAnswer(reply.data);
      const data = reply.data.subarray(ANSWER_BYTES);
      if (!answer || answer.length !== data.length || checksum(data) !== answer.crc) {
        note(notes, 'an answer came damaged');
        continue;
      }
      if (answer.status === 'ok' && (request.blob === null || (data.length > 0 && data.length <= request.length)))
        return data;
      const words = new TextDecoder().decode(data);
      if (answer.status === 'gone' || answer.status === 'range') throw new BlobGone(words);
      note(notes, answer.status === 'ok' ? 'an answer has the wrong length' : words);
      await pause(100, signal);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof BlobGone) throw error;
      const { name } = error as Error;
      if (/NoResponders/.test(name) || /NoResponders/.test(((error as Error).cause as Error | undefined)?.name ?? '')) {
        absentSince ??= performance.now();
        if (performance.now() - absentSince > ABSENT_MS)
          throw new BlobGone(`nobody has offered blobs of ${owner} for ${ABSENT_MS / 1000} s: its process is gone`);
        note(notes, `nobody offers blobs of ${owner}`);
        await pause(100, signal);
      } else if (name === 'TimeoutError') {
        note(notes, `no answer within ${attemptMs} ms`);
        attemptMs = Math.min(MAX_ATTEMPT_MS, attemptMs * 2);
        slow();
      } else {
        note(notes, (error as Error).message);
        await pause(100, signal);
      }
    }
  }
}

function note(notes: string[], words: string): void {
  if (notes.at(-1) === words) return;
  notes.push(words);
  if (notes.length > 8) notes.shift();
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', aborted);
      resolve();
    }, ms);
    signal.addEventListener('abort', aborted, { once: true });
  });
}
