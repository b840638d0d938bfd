import type { StartPhases } from '../../worker/index.ts';
import type { RecoveryPhases } from '../events.ts';

type Phase = keyof RecoveryPhases;

const NONE: RecoveryPhases = {
  wait: 0,
  prepare: 0,
  plan: 0,
  assign: 0,
  start: 0,
  compile: 0,
  restore: 0,
  ready: 0,
  step: 0,
};

/** What a recovery took. */
export interface RecoveryTimes {
  readonly detectionMs: number;
  readonly recoveryMs: number;
  readonly phases: RecoveryPhases;
}

/** Takes the time of a recovery, phase by phase. Of a generation that comes to nothing the time counts too. */
export class RecoveryClock {
  #running: {
    readonly decidedAt: number;
    readonly detectionMs: number;
    lastAt: number;
    phases: Record<Phase, number>;
  } | null = null;

  /** It is decided that the run has to recover; the first sign was seen at `firstSign` (`performance.now()`). */
  begin(firstSign: number): void {
    const now = performance.now();
    this.#running = { decidedAt: now, detectionMs: now - firstSign, lastAt: now, phases: { ...NONE } };
  }

  /** A phase is over. */
  mark(phase: Phase): void {
    if (!this.#running) return;
    const now = performance.now();
    this.#running.phases[phase] += now - this.#running.lastAt;
    this.#running.lastAt = now;
  }

  /** All ranks are ready: the time since they were assigned goes by what the last of them did. */
  ready(ranks: readonly StartPhases[]): void {
    if (!this.#running) return;
    const total = ({ start, compile, restore }: StartPhases): number => start + compile + restore;
    const last = [...ranks].sort((a, b) => total(b) - total(a))[0];
    const { phases, lastAt } = this.#running;
    if (last) for (const phase of ['start', 'compile', 'restore'] as const) phases[phase] += last[phase];
    const now = performance.now();
    phases.ready += now - lastAt - (last ? total(last) : 0);
    this.#running.lastAt = now;
  }

  /** The first step is complete. Null if nothing was to be recovered. */
  end(): RecoveryTimes | null {
    if (!this.#running) return null;
    this.mark('step');
    const { decidedAt, detectionMs, lastAt, phases } = this.#running;
    this.#running = null;
    return { detectionMs, recoveryMs: lastAt - decidedAt, phases };
  }
}
