import { existsSync } from 'node:fs';
import { readMetrics } from '../../coordinator/index.ts';
import type { RunSettings } from './round-schema.ts';

/** When a run's evaluations first reached the accuracy that is aimed at. */
export class TargetRecord {
  readonly #target: number | null;
  readonly #stop: boolean;
  #reached: number | null = null;

  private constructor({ target_accuracy, stop_at_target }: Pick<RunSettings, 'target_accuracy' | 'stop_at_target'>) {
    this.#target = target_accuracy;
    this.#stop = stop_at_target;
  }

  /** The record of a run after so many steps, from the lines of its metrics. */
  static async open(
    metrics: string,
    steps: number,
    settings: Pick<RunSettings, 'target_accuracy' | 'stop_at_target'>,
  ): Promise<TargetRecord> {
    const record = new TargetRecord(settings);
    if (steps === 0 || !existsSync(metrics)) return record;
    for (const { step, accuracy } of await readMetrics(metrics))
      if (step <= steps && typeof accuracy === 'number') record.evaluated(step, accuracy);
    return record;
  }

  /** Whether the run is to end: the target is reached, and it is to end there. */
  get stops(): boolean {
    return this.#stop && this.#reached !== null;
  }

  /** Takes note of an evaluation after so many steps. */
  evaluated(step: number, accuracy: number): void {
    if (this.#reached === null && this.#target !== null && accuracy >= this.#target) this.#reached = step;
  }

  /** For summary.json: rounds until an evaluation reached the target, null if none did; nothing without a target. */
  summary(): Readonly<Record<string, number | null>> {
    return this.#target === null ? {} : { target_accuracy: this.#target, rounds_to_target: this.#reached };
  }
}
