import { gradientExchangeBytes } from '../plan/index.ts';
import type { RunSession } from './launch/index.ts';
import type { PreparedRun } from './prepare.ts';
import { CheckpointReader, type MetricsLog, type RunSummary, readMetrics, verifyCheckpoint } from './run/index.ts';

/**
 * What `summary.json` says of a run that has reached its last step: read from its last checkpoint, its log and its evaluations.
 * @throws Error if there is no checkpoint of the last step, CheckpointError if it is damaged
 */
export async function summarise(
  prepared: PreparedRun,
  session: RunSession,
  known: { baselines: Readonly<Record<string, number>>; log: MetricsLog; wall_s: number; recoveries: number },
): Promise<RunSummary> {
  const { config, dataset } = prepared;
  const path = session.checkpointPath;
  if (path === null) throw new Error('the scheduler ended without a checkpoint of the last step');
  const reader = await CheckpointReader.open(path, await verifyCheckpoint(path));
  try {
    const evaluation = session.evaluations.get(config.train.eval_split);
    const accuracy = evaluation?.metrics.accuracy;
    const steps = session.position;
    return {
      steps,
      loss: known.log.losses[steps - 1] as number,
      val_loss: evaluation?.loss ?? null,
      ...(typeof accuracy === 'number' ? { accuracy } : {}),
      baselines: known.baselines,
      wall_s: Math.round(known.wall_s * 1000) / 1000,
      tokens_per_s: session.ratePerSecond(config.batch.global * dataset.tokensPerExample),
      weights_sha256: await reader.weightsSha256(),
      losses_sha256: known.log.sha256(),
      samples_seen: steps * config.batch.global,
      recoveries: known.recoveries,
      ...session.reported,
      ...(await communication(known.log.path)),
      ...(prepared.local ? { comm_bytes_synchronous: steps * gradientExchangeBytes(prepared.plan) } : {}),
    };
  } finally {
    await reader.close();
  }
}

/** Bytes between ranks over all steps, interrupted ones of a resumed run included. */
async function communication(metrics: string): Promise<Pick<RunSummary, 'comm_bytes' | 'comm_bytes_saved'>> {
  const lines = await readMetrics(metrics);
  const total = (key: string) => lines.reduce((sum, line) => sum + Number(line[key] ?? 0), 0);
  const saved = total('comm_bytes_saved');
  return { comm_bytes: total('comm_bytes'), ...(saved === 0 ? {} : { comm_bytes_saved: saved }) };
}
