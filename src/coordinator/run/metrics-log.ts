import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { writeFileAtomically } from './atomic.ts';
import { isFull } from './errors.ts';

/** One line of metrics.jsonl: `step` counts completed steps, so the first line has 1. */
export type MetricsLine = { readonly step: number; readonly loss: number } & Readonly<Record<string, unknown>>;

/** Bytes of lines that may wait for room on a full disk. */
const MAX_WAITING = 16 * 1024 * 1024;

/**
 * Appends to metrics.jsonl, one JSON object a step, and keeps the losses of all steps for their hash. On a full disk
 * lines wait in memory for the next append or flush.
 */
export class MetricsLog {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #losses: number[];
  /** Where each line ends in the file, by completed steps less one. */
  readonly #ends: number[];
  /** Lines that are not in the file yet. */
  #waiting: { readonly step: number; readonly bytes: Buffer }[] = [];
  #full: string | null = null;
  #tail: Promise<void> = Promise.resolve();

  private constructor(path: string, file: FileHandle, losses: number[], ends: number[]) {
    this.path = path;
    this.#file = file;
    this.#losses = losses;
    this.#ends = ends;
  }

  /**
   * Opens the log of a run that continues after `step` completed steps: lines of later steps (made after the checkpoint
   * that the run goes on from) and a line torn by a crash are dropped; the rest is kept.
   * @throws Error if losses of earlier steps are missing, because their hash could not be right.
   */
  static async open(path: string, step: number): Promise<MetricsLog> {
    const lines = step === 0 ? [] : (await readMetrics(path)).filter((line) => line.step <= step);
    const losses: number[] = [];
    // (What is no number, as where nobody answered, is null in JSON.)
    for (const line of lines) losses[line.step - 1] = (line.loss as number | null) ?? Number.NaN;
    for (let i = 0; i < step; i++)
      if (losses[i] === undefined)
        throw new Error(
          `${path} has no line for step ${i + 1}, but the checkpoint was made after ${step} steps: was the file cut or replaced?`,
        );
    const encoded = lines.map(encode);
    const ends: number[] = [];
    let end = 0;
    for (const [i, { step: of }] of lines.entries()) {
      end += (encoded[i] as Buffer).length;
      ends[of - 1] = end;
    }
    await writeFileAtomically(path, Buffer.concat(encoded));
    return new MetricsLog(path, await open(path, 'r+'), losses, ends);
  }

  /** Losses of all steps so far, as float32 values. */
  get losses(): readonly number[] {
    return this.#losses;
  }

  /** Why lines are waiting in memory, if they are: the disk is full. */
  get full(): string | null {
    return this.#full;
  }

  /** Appends a step's metrics. Lines reach the file in order. @throws Error if it cannot be written, or too many wait */
  append(line: MetricsLine): Promise<void> {
    // JSON has no -0: a run that goes on must find what it had.
    this.#losses[line.step - 1] = line.loss + 0;
    return this.#next(async () => {
      this.#waiting.push({ step: line.step, bytes: encode(line) });
      await this.#drain().catch((error: Error) => {
        const bytes = this.#waiting.reduce((sum, waiting) => sum + waiting.bytes.length, 0);
        if (!isFull(error) || bytes > MAX_WAITING) throw error;
        this.#full = error.message;
      });
    });
  }

  /** Drops the lines of steps after `step` completed ones, from which the run goes on once more. */
  rewind(step: number): Promise<void> {
    return this.#next(async () => {
      this.#waiting = this.#waiting.filter((line) => line.step <= step);
      this.#losses.length = Math.min(this.#losses.length, step);
      this.#ends.length = Math.min(this.#ends.length, step);
      await this.#file.truncate(this.#end);
    });
  }

  /** SHA-256 of the losses of all steps, as little-endian float32. */
  sha256(): string {
    return createHash('sha256')
      .update(new Uint8Array(Float32Array.from(this.#losses).buffer))
      .digest('hex');
  }

  /** Waits until every line is on the disk. */
  flush(): Promise<void> {
    return this.#next(async () => {
      await this.#drain();
      await this.#file.sync();
    });
  }

  /** Flushes and closes; a second call does nothing. The file is closed even if something cannot be written. */
  async close(): Promise<void> {
    if (this.#file.fd < 0) return;
    try {
      await this.flush();
    } finally {
      await this.#file.close();
    }
  }

  get #end(): number {
    return this.#ends.at(-1) ?? 0;
  }

  /** One after another, whatever became of the one before, which its caller knows. */
  #next(work: () => Promise<void>): Promise<void> {
    const done = this.#tail.then(work);
    this.#tail = done.catch(() => undefined);
    return done;
  }

  async #drain(): Promise<void> {
    for (let line = this.#waiting[0]; line; line = this.#waiting[0]) {
      const { step, bytes } = line;
      const start = this.#end;
      // At its own place, so that what a full disk cut off is written over by the next attempt.
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at, start + at);
        at += bytesWritten;
      }
      this.#ends[step - 1] = start + bytes.length;
      this.#waiting.shift();
    }
    this.#full = null;
  }
}

function encode(line: MetricsLine): Buffer {
  return Buffer.from(`${JSON.stringify(line)}\n`);
}

/** Reads metrics.jsonl. A last line that a crash tore is left out. @throws Error naming a broken line elsewhere. */
export async function readMetrics(path: string): Promise<MetricsLine[]> {
  const lines = (await readFile(path, 'utf8')).split('\n');
  const parsed: MetricsLine[] = [];
  for (const [index, line] of lines.entries()) {
    if (line.trim() === '') continue;
    try {
      parsed.push(JSON.parse(line) as MetricsLine);
    } catch {
      if (index < lines.length - 1) throw new Error(`${path}:${index + 1} is not a JSON object: ${line.slice(0, 80)}`);
    }
  }
  return parsed;
}
