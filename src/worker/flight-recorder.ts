import type { PendingWait } from '../comm/index.ts';
import { PROGRESS_FIELDS } from './protocol.ts';

/** Instructions that are remembered. */
export const FLIGHT_LENGTH = 64;

/** One more than are remembered: it may be being written over. */
const SLOTS = FLIGHT_LENGTH + 1;

/** How often what a rank waits for is noted, in milliseconds. */
const WATCH_MS = 100;

/** Longest text of waits, in bytes; what does not fit is left out. */
const WAITS_BYTES = 2048;

/**
 * Where things lie in the shared memory. The first fields are `PROGRESS_FIELDS`; after them, as Int32: instructions
 * recorded, and of the waits a counter that is odd while they are being written, and the length of their text.
 */
const RECORDED = 8;
const WAITS_TURN = 9;
const WAITS_LENGTH = 10;
const HEADER_BYTES = 64;
const TIMES_AT = HEADER_BYTES + SLOTS * 2 * Int32Array.BYTES_PER_ELEMENT;
const WAITS_TIME_AT = TIMES_AT + SLOTS * Float64Array.BYTES_PER_ELEMENT;
const WAITS_AT = WAITS_TIME_AT + Float64Array.BYTES_PER_ELEMENT;
const FLIGHT_BYTES = WAITS_AT + WAITS_BYTES;

/** Shared memory for `WorkerJob.progress`, in which the rank also records its last instructions. */
export function createProgress(): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(FLIGHT_BYTES);
  const header = new Int32Array(buffer, 0, PROGRESS_FIELDS.length).fill(-1);
  header[PROGRESS_FIELDS.indexOf('abort')] = 0;
  return buffer;
}

/** A recorded instruction: where it stands in which program, and when it began. */
export interface FlightEntry {
  /** The step, or the round of an evaluation. */
  readonly step: number;
  /** 0 for the train program, 1 for the evaluate program. */
  readonly mode: number;
  /** In the program's instructions. */
  readonly index: number;
  /** Milliseconds of the epoch. */
  readonly began: number;
}

/** What a rank waited for when it last looked. */
export interface FlightWaits {
  /** When it looked, in milliseconds of the epoch. */
  readonly at: number;
  readonly waits: readonly PendingWait[];
}

/** Milliseconds of the epoch, the same in all threads, finer than `Date.now`. */
export function epochNow(): number {
  return performance.timeOrigin + performance.now();
}

/**
 * Writes down a rank's last instructions, and what it waits for, in memory that other threads can read whatever the rank
 * is doing. Recording an instruction costs some tens of nanoseconds.
 */
export class FlightRecorder {
  readonly #header: Int32Array;
  readonly #entries: Int32Array;
  readonly #times: Float64Array;
  readonly #waitsTime: Float64Array;
  readonly #waits: Uint8Array;
  #recorded = 0;
  #timer: NodeJS.Timeout | null = null;

  private constructor(buffer: SharedArrayBuffer) {
    this.#header = new Int32Array(buffer, 0, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
    this.#entries = new Int32Array(buffer, HEADER_BYTES, SLOTS * 2);
    this.#times = new Float64Array(buffer, TIMES_AT, SLOTS);
    this.#waitsTime = new Float64Array(buffer, WAITS_TIME_AT, 1);
    this.#waits = new Uint8Array(buffer, WAITS_AT, WAITS_BYTES);
  }

  /** A recorder in memory made by `createProgress`; null for memory that is only for progress, or none. */
  static in(buffer: SharedArrayBuffer | undefined): FlightRecorder | null {
    return buffer && buffer.byteLength >= FLIGHT_BYTES ? new FlightRecorder(buffer) : null;
  }

  /** An instruction begins. */
  record(step: number, mode: number, index: number): void {
    const slot = this.#recorded % SLOTS;
    this.#entries[2 * slot] = step;
    // Programs have far fewer than 2^30 instructions.
    this.#entries[2 * slot + 1] = index * 2 + mode;
    this.#times[slot] = epochNow();
    this.#recorded += 1;
    Atomics.store(this.#header, RECORDED, this.#recorded);
  }

  /**
   * Notes what is waited for, if anything, whenever this thread is idle, until `stop`. That it has not done so for long
   * tells that the thread is busy.
   */
  watch(pending: () => readonly PendingWait[]): void {
    this.stop();
    this.#timer = setInterval(() => this.#note(pending()), WATCH_MS);
    this.#timer.unref();
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  #note(waits: readonly PendingWait[]): void {
    const texts: string[] = [];
    let room = WAITS_BYTES - 2;
    for (const { from, tag, sinceMs } of waits) {
      const text = JSON.stringify([from, tag, Math.round(sinceMs)]);
      room -= Buffer.byteLength(text) + 1;
      if (room < 0) break;
      texts.push(text);
    }
    Atomics.add(this.#header, WAITS_TURN, 1);
    const bytes = Buffer.from(`[${texts.join(',')}]`);
    this.#waits.set(bytes);
    this.#waitsTime[0] = epochNow();
    Atomics.store(this.#header, WAITS_LENGTH, bytes.length);
    Atomics.add(this.#header, WAITS_TURN, 1);
  }
}

/** The last instructions that were recorded, oldest first. Empty for memory without a record. */
export function readEntries(buffer: SharedArrayBuffer): FlightEntry[] {
  if (buffer.byteLength < FLIGHT_BYTES) return [];
  const header = new Int32Array(buffer, 0, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
  const entries = new Int32Array(buffer, HEADER_BYTES, SLOTS * 2);
  const times = new Float64Array(buffer, TIMES_AT, SLOTS);
  const recorded = Atomics.load(header, RECORDED);
  const read = [];
  for (let i = Math.max(0, recorded - FLIGHT_LENGTH); i < recorded; i++) {
    const slot = i % SLOTS;
    const place = entries[2 * slot + 1] as number;
    read.push({
      step: entries[2 * slot] as number,
      mode: place % 2,
      index: Math.floor(place / 2),
      began: times[slot] as number,
    });
  }
  // The rank may have gone on meanwhile: what it has written over since is not to be trusted.
  const lost = Math.max(0, Atomics.load(header, RECORDED) - Math.max(recorded, FLIGHT_LENGTH));
  return read.slice(lost);
}

/** What the rank waited for when it last looked; null if it never has, or is looking just now. */
export function readWaits(buffer: SharedArrayBuffer): FlightWaits | null {
  if (buffer.byteLength < FLIGHT_BYTES) return null;
  const header = new Int32Array(buffer, 0, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
  for (let attempt = 0; attempt < 3; attempt++) {
    const turn = Atomics.load(header, WAITS_TURN);
    if (turn === 0) return null;
    const at = new Float64Array(buffer, WAITS_TIME_AT, 1)[0] as number;
    const bytes = new Uint8Array(buffer, WAITS_AT, Atomics.load(header, WAITS_LENGTH)).slice();
    if (turn % 2 === 1 || Atomics.load(header, WAITS_TURN) !== turn) continue;
    const waits = JSON.parse(new TextDecoder().decode(bytes)) as [number, string, number][];
    return { at, waits: waits.map(([from, tag, sinceMs]) => ({ from, tag, sinceMs })) };
  }
  return null;
}
