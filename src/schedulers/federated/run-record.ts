import {
  CheckpointReader,
  type MetricsLog,
  type RunEvent,
  type RunSummary,
  readMetrics,
  verifyCheckpoint,
} from '../../coordinator/index.ts';
import { type LeftOut, leftOut } from './left-out.ts';
import { doubles, readDoubles, type SavedTensors } from './saved-tensors.ts';

/** What one step of a federated training came to: a round, or a new version of the parameters. */
export interface FederatedStep {
  /** Mean loss of the local steps; NaN if nobody answered. */
  readonly loss: number;
  /** Examples that clients trained on, each pass counted. */
  readonly examples: number;
  readonly ms: number;
  /** Simulated seconds that it took; null where clients are not simulated. */
  readonly seconds: number | null;
  /** Bytes that went between clients and server, or among clients. */
  readonly bytes: number;
  /** Numbers for metrics.jsonl and for whoever watches. */
  readonly metrics: Readonly<Record<string, number>>;
  /** What else metrics.jsonl says of the step. */
  readonly notes?: Readonly<Record<string, unknown>>;
  /** What else has happened in it. */
  readonly events?: readonly RunEvent[];
}

/** What a run has come to so far. */
export interface Totals {
  /** Examples that clients trained on. */
  readonly samples: number;
  /** Simulated time. */
  readonly seconds: number;
  readonly bytes: number;
}

const TOTALS = 'run/totals';

/** The totals as a tensor of a checkpoint. */
export const totalsTensor = ({ samples, seconds, bytes }: Totals) => ({ [TOTALS]: doubles([samples, seconds, bytes]) });

/** The totals of a checkpoint. */
export async function readTotals(saved: SavedTensors): Promise<Totals> {
  const [samples = 0, seconds = 0, bytes = 0] = await readDoubles(saved, TOTALS);
  return { samples, seconds, bytes };
}

/** Writes a step's line, and says what the progress shows. */
export async function recorded(
  log: MetricsLog,
  step: number,
  report: FederatedStep,
  unit: string,
  /** What an evaluation after it found. */
  evaluation: Readonly<Record<string, unknown>> = {},
): Promise<RunEvent> {
  const perSecond = (report.examples * 1000) / report.ms;
  const { seconds } = report;
  const metrics = { loss: report.loss, ...report.metrics, ...(seconds === null ? {} : { simulated_s: seconds }) };
  await log.append({
    step,
    ...metrics,
    [`${unit}_per_s`]: Math.round(perSecond * 10) / 10,
    step_ms: Math.round(report.ms * 1000) / 1000,
    ...report.notes,
    ...evaluation,
  });
  return {
    type: 'step',
    step,
    loss: report.loss,
    gradNorm: Number.NaN,
    lr: Number.NaN,
    perSecond,
    stepMs: report.ms,
    commMs: 0,
    commBytes: report.bytes,
    commBytesSaved: 0,
    metrics,
  };
}

/** Bytes down and up over all steps where steps say so, and whom they did without; interrupted ones of a resumed run included. */
export async function overAllSteps(log: MetricsLog): Promise<Pick<RunSummary, 'bytes_down' | 'bytes_up'> & LeftOut> {
  await log.flush();
  const lines = await readMetrics(log.path);
  const total = (key: string) => lines.reduce((sum, line) => sum + Number(line[key] ?? 0), 0);
  const bytes = { bytes_down: total('bytes_down'), bytes_up: total('bytes_up') };
  return { ...(lines.some((line) => 'bytes_up' in line) ? bytes : {}), ...leftOut(lines) };
}

/** What a run ends with. */
export async function summarise(known: {
  readonly log: MetricsLog;
  readonly step: number;
  readonly totals: Totals;
  /** Whether its seconds are simulated ones. */
  readonly simulated: boolean;
  readonly wall: number;
  readonly evaluation: { readonly loss: number; readonly accuracy: number | null } | null;
  readonly saved: { readonly path: string } | null;
  readonly more: Readonly<Record<string, unknown>>;
}): Promise<RunSummary> {
  if (known.saved === null) throw new Error('the strategy ended without a checkpoint of the last step');
  const reader = await CheckpointReader.open(known.saved.path, await verifyCheckpoint(known.saved.path));
  try {
    const accuracy = known.evaluation?.accuracy ?? null;
    return {
      steps: known.step,
      loss: known.log.losses[known.step - 1] as number,
      val_loss: known.evaluation?.loss ?? null,
      ...(accuracy === null ? {} : { accuracy }),
      baselines: {},
      wall_s: Math.round(known.wall * 1000) / 1000,
      tokens_per_s: 0,
      weights_sha256: await reader.weightsSha256(),
      losses_sha256: known.log.sha256(),
      samples_seen: known.totals.samples,
      recoveries: 0,
      comm_bytes: known.totals.bytes,
      ...(known.simulated ? { simulated_s: known.totals.seconds } : {}),
      ...known.more,
    };
  } finally {
    await reader.close();
  }
}
