import type { StepReport } from '../../worker/index.ts';
import type { StepEvent } from '../events.ts';
import { RunFailure } from '../failure.ts';
import { finishMetrics, type Metrics } from '../metrics.ts';

/** What a step's event says besides what the ranks report. */
export interface StepFacts {
  /** Completed steps. */
  readonly step: number;
  readonly microbatches: number;
  /** Examples, or tokens, of the whole batch. */
  readonly units: number;
  /** Since the step before, in milliseconds. */
  readonly ms: number;
}

/** The event of a step that every rank has reported, by rank. @throws Error if no rank reports a loss */
export function stepEvent(reports: readonly StepReport[], { step, microbatches, units, ms }: StepFacts): StepEvent {
  const metrics = finishMetrics(
    reports.map((report) => report.metrics),
    microbatches,
  );
  const { gradNorm, lr } = reports[0] as StepReport;
  return {
    type: 'step',
    step,
    loss: numberOf(metrics, 'loss'),
    gradNorm,
    lr,
    perSecond: (units * 1000) / ms,
    stepMs: Math.max(...reports.map((report) => report.stepMs)),
    commMs: Math.max(...reports.map((report) => report.commMs)),
    commBytes: reports.reduce((sum, report) => sum + report.commBytes, 0),
    commBytesSaved: reports.reduce((sum, report) => sum + report.commBytesSaved, 0),
    metrics,
  };
}

/** The line of a step in metrics.jsonl. */
export function stepLine(
  event: StepEvent,
  {
    unit,
    observes,
    compresses,
  }: { readonly unit: 'tokens' | 'examples'; readonly observes: boolean; readonly compresses: boolean },
) {
  const { loss: _, ...others } = event.metrics;
  return {
    step: event.step,
    ...(observes ? { phase: 'observe' } : {}),
    loss: event.loss,
    grad_norm: event.gradNorm,
    lr: event.lr,
    [`${unit}_per_s`]: Math.round(event.perSecond * 10) / 10,
    step_ms: Math.round(event.stepMs * 1000) / 1000,
    comm_ms: Math.round(event.commMs * 1000) / 1000,
    comm_bytes: event.commBytes,
    ...(compresses ? { comm_bytes_saved: event.commBytesSaved } : {}),
    ...others,
  };
}

/** Why a run ends whose loss or gradient norm is not finite. `checkpoint`: path of the newest one, or null. */
export function diverged({ step, loss, gradNorm }: StepEvent, checkpoint: string | null): RunFailure {
  const kept = checkpoint === null ? 'no checkpoint had been written' : `the last good checkpoint is ${checkpoint}`;
  return new RunFailure([
    {
      rank: 0,
      path: null,
      instruction: null,
      microbatch: null,
      step: step - 1,
      name: 'NotFinite',
      message: `the loss is ${loss} and the gradient norm ${gradNorm}: training has diverged; ${kept}\nlower optim.lr, warm it up for longer, or set optim.clip_norm`,
      stack: '',
      secondary: false,
    },
  ]);
}

/** A metric that must be there. @throws Error naming those that are */
export function numberOf(metrics: Metrics, name: string): number {
  const value = metrics[name];
  if (typeof value !== 'number')
    throw new Error(`no rank reported the metric '${name}'; there are: ${Object.keys(metrics).join(', ')}`);
  return value;
}
