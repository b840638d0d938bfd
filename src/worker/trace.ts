/** One event of the Chrome trace format (complete events and metadata); times in microseconds. */
export interface TraceEvent {
  readonly name: string;
  readonly cat: string;
  readonly ph: 'X' | 'M';
  readonly ts: number;
  readonly dur?: number;
  readonly pid: number;
  readonly tid: number;
  readonly args: Readonly<Record<string, unknown>>;
}

/** Instructions kept at most: a long run's trace keeps its first steps. */
const LIMIT = 200_000;

/** Records instructions as a Chrome trace (opens in Perfetto): one track a rank, on a clock that all threads share. */
export class TraceRecorder {
  readonly #rank: number;
  readonly #events: TraceEvent[] = [];

  constructor(rank: number) {
    this.#rank = rank;
    this.#events.push({
      name: 'thread_name',
      cat: '',
      ph: 'M',
      ts: 0,
      pid: 0,
      tid: rank,
      args: { name: `rank ${rank}` },
    });
  }

  /** Adds an instruction; `start` as of `performance.now()`, times in milliseconds. */
  add(name: string, category: string, start: number, ms: number, args: TraceEvent['args']): void {
    if (this.#events.length >= LIMIT) return;
    const ts = (performance.timeOrigin + start) * 1000;
    this.#events.push({ name, cat: category, ph: 'X', ts, dur: ms * 1000, pid: 0, tid: this.#rank, args });
  }

  events(): readonly TraceEvent[] {
    return this.#events;
  }
}
