import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { writeFileAtomically } from './atomic.ts';

/** One line of metrics.jsonl: `step` counts completed steps, so the first line has 1. */
export type MetricsLine = { readonly step: number; readonly loss: number } & Readonly<Record<string, unknown>>;

/** Appends to metrics.jsonl, one JSON object a step, and keeps the losses of all steps for their hash. */
export class MetricsLog {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #losses: number[];
  #tail: Promise<void> = Promise.resolve();

  private constructor(path: string, file: FileHandle, losses: number[]) {
    this.path = path;
    this.#file = file;
    this.#losses = losses;
  }

  /**
   * Opens the log of a run that continues after `step` completed steps: lines of later steps (made after the checkpoint
   * that the run goes on from) and a line torn by a crash are dropped; the rest is kept.
   * @throws Error if losses of earlier steps are missing, because their hash could not be right.
   */
  static async open(path: string, step: number): Promise<MetricsLog> {
    const lines = step === 0 ? [] : (await readMetrics(path)).filter((line) => line.step <= step);
    const losses: number[] = [];
    for (const line of lines) losses[line.step - 1] = line.loss;
    for (let i = 0; i < step; i++)
      if (losses[i] === undefined)
        throw new Error(
          `${path} has no line for step ${i + 1}, but the checkpoint was made after ${step} steps: was the file cut or replaced?`,
        );
    await writeFileAtomically(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    return new MetricsLog(path, await open(path, 'a'), losses);
  }

  /** Losses of all steps so far, as float32 values. */
  get losses(): readonly number[] {
    return this.#losses;
  }

  /** Appends a step's metrics. Lines reach the file in order. */
  append(line: MetricsLine): Promise<void> {
    this.#losses[line.step - 1] = line.loss;
    this.#tail = this.#tail.then(() => this.#file.appendFile(`${JSON.stringify(line)}\n`));
    return this.#tail;
  }

  /** SHA-256 of the losses of all steps, as little-endian float32. */
  sha256(): string {
    return createHash('sha256')
      .update(new Uint8Array(Float32Array.from(this.#losses).buffer))
      .digest('hex');
  }

  /** Waits until every line is on the disk. */
  async flush(): Promise<void> {
    await this.#tail;
    await this.#file.sync();
  }

  /** Flushes and closes; a second call does nothing. */
  async close(): Promise<void> {
    if (this.#file.fd < 0) return;
    await this.flush();
    await this.#file.close();
  }
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
