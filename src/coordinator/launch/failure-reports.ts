import type { FailureReport } from '../../worker/index.ts';

/** Reports that come in shortly after the cause are folded behind it. */
const FOLD_MS = 50;

/** Gathers what ranks report when something fails, until it is clear which is the cause. */
export class FailureReports {
  readonly #graceMs: number;
  readonly #settled: (cause: FailureReport, others: readonly FailureReport[]) => void;
  readonly #reports: FailureReport[] = [];
  #timer: NodeJS.Timeout | null = null;
  #closed = false;

  /**
   * @param graceMs how long a report that only follows from another waits for the cause
   * @param settled called once, with the cause and the rest
   */
  constructor(graceMs: number, settled: (cause: FailureReport, others: readonly FailureReport[]) => void) {
    this.#graceMs = graceMs;
    this.#settled = settled;
  }

  /** Whether anything was reported. */
  get any(): boolean {
    return this.#reports.length > 0;
  }

  /** Whether a rank has reported something. */
  of(rank: number): boolean {
    return this.#reports.some((report) => report.rank === rank);
  }

  /** Notes a failure. A cause settles it at once; a consequence waits for its cause first. */
  add(report: FailureReport): void {
    if (this.#closed) return;
    this.#reports.push(report);
    if (this.#timer && report.secondary) return;
    if (this.#timer) clearTimeout(this.#timer);
    const wait = this.#reports.some(({ secondary }) => !secondary) ? FOLD_MS : this.#graceMs;
    this.#timer = setTimeout(() => this.#settle(), wait);
  }

  /** Takes no more reports, and settles nothing. */
  close(): void {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
  }

  #settle(): void {
    const cause = this.#reports.find((report) => !report.secondary) ?? this.#reports[0];
    if (!cause) return;
    this.close();
    this.#settled(
      cause,
      this.#reports.filter((report) => report !== cause),
    );
  }
}
