import type { FederatedStart, RunEvent, RunSummary } from '../coordinator/index.ts';
import { costLines, matrixLines, percentCell } from './task-matrix.ts';
import { formatBytes, formatCount, formatDuration, painter, shownPath } from './terminal.ts';

/** A run that has ended, for its closing words. */
export interface Ending {
  /** The config file as given, or null where the run's own was used. */
  readonly config: string | null;
  readonly finished: Extract<RunEvent, { type: 'finished' }>;
  readonly sample: Extract<RunEvent, { type: 'sampled' }> | null;
  readonly unit: 'tokens' | 'examples';
  readonly colour: boolean;
  /** Columns of the terminal. Default: 100. */
  readonly columns?: number | undefined;
  /** Flags that going on in the same way needs, e.g. `--nats`; may be empty. */
  readonly flags?: string;
  /** What was known at the start, where clients were trained. */
  readonly federated?: FederatedStart | null;
}

/** The summary of a run: figures beside their baselines, a sample, the folder, what to type next. */
export function formatEnding(ending: Ending): string {
  const { finished, sample, config, colour, federated = null } = ending;
  const steps = federated?.steps ?? 'steps';
  const paint = painter(colour);
  const dir = shownPath(finished.dir);
  const resume = `plexus train ${config === null ? '' : `${config} `}--resume ${dir}${ending.flags ? ` ${ending.flags}` : ''}`;
  if (finished.status === 'interrupted' || finished.summary === null) {
    const stopped = `${paint('yellow', '■')} stopped after ${finished.step} ${steps}`;
    if (!finished.checkpoint) return `${stopped}; there is nothing to go on from yet`;
    return `${stopped}; checkpoint ${shownPath(finished.checkpoint)}\n\n  go on   ${resume}`;
  }
  const { summary } = finished;
  const lines = [
    `${summary.rounds_uncounted === summary.steps ? paint('yellow', '!') : paint('green', '✓')} ${finished.runId}: ${summary.steps} ${steps} in ${formatDuration(summary.wall_s)}` +
      // None where a resumed run had nothing left to train.
      (summary.tokens_per_s > 0 ? `, ${formatCount(summary.tokens_per_s)} ${ending.unit}/s` : ''),
    '',
    ...figures(summary, paint, federated),
    ...sequence(summary, paint, ending.columns ?? 100),
  ];
  if (sample)
    lines.push(
      '',
      `  ${paint('dim', 'sample')}`,
      ...`${sample.prompt}${sample.text}`.split('\n').map((line) => `    ${line}`),
    );
  lines.push('', `  run     ${dir}`);
  if (federated?.picture) lines.push(`  split   ${shownPath(federated.picture)}`);
  if (sample) lines.push(`  next    plexus generate ${dir} --prompt "The whale" --tokens 300`);
  else if (!summary.accuracy_matrix) lines.push(`  next    plexus eval ${dir}`);
  if (!summary.accuracy_matrix) lines.push(`          ${resume} --set train.steps=${summary.steps * 2}`);
  else lines.push(`  picture ${dir}/accuracy.svg`);
  return lines.join('\n');
}

function figures(summary: RunSummary, paint: ReturnType<typeof painter>, federated: FederatedStart | null): string[] {
  const last = federated ? federated.steps.slice(0, -1) : 'step';
  const rows: [string, string, string][] = [];
  // (Clients whose updates are under noise tell none.)
  if (Number.isFinite(summary.loss)) rows.push(['training loss', summary.loss.toFixed(4), `of the last ${last}`]);
  const { val_loss: loss } = summary;
  if (loss !== null) rows.push(['validation loss', loss.toFixed(4), '']);
  if (summary.accuracy !== undefined) rows.push(['accuracy', `${(summary.accuracy * 100).toFixed(2)} %`, '']);
  if (summary.forgetting !== undefined)
    rows.push(['forgetting', `${(summary.forgetting * 100).toFixed(2)} %`, 'since each task was known best']);
  if (summary.backward_transfer !== undefined)
    rows.push(['backward transfer', `${(summary.backward_transfer * 100).toFixed(2)} %`, 'since each task was learnt']);
  if (summary.forward_transfer !== undefined)
    rows.push([
      'forward transfer',
      `${(summary.forward_transfer * 100).toFixed(2)} %`,
      'before it was, above untrained',
    ]);
  if (summary.intransigence !== undefined)
    rows.push(['intransigence', `${(summary.intransigence * 100).toFixed(2)} %`, 'below tasks learnt together']);
  if (federated) rows.push(...federatedFigures(summary));
  for (const [name, baseline] of Object.entries(summary.baselines)) {
    const verdict =
      loss === null
        ? ''
        : loss < baseline
          ? paint('green', `beaten by ${(baseline - loss).toFixed(4)}`)
          : paint('yellow', `not beaten: ${(loss - baseline).toFixed(4)} above`);
    rows.push([`${name} baseline`, baseline.toFixed(4), verdict]);
  }
  const wide = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, value, note]) => `  ${label.padEnd(wide)}  ${value.padStart(8)}  ${note}`.trimEnd());
}

const lossCell = (loss: number): string => loss.toFixed(3);

/** What became of a sequence of tasks. */
function sequence(
  { accuracy_matrix: matrix, loss_matrix: losses, tasks }: RunSummary,
  paint: ReturnType<typeof painter>,
  columns: number,
): string[] {
  if (!matrix) return [];
  return [
    '',
    ...matrixLines(matrix, {
      title: losses ? 'next tokens predicted right in each task, in percent' : 'accuracy on each task, in percent',
      cell: percentCell,
      paint,
      columns,
    }),
    ...(losses
      ? ['', ...matrixLines(losses, { title: 'loss of a token in each task', cell: lossCell, paint, columns })]
      : []),
    ...(tasks ? ['', ...costLines(tasks, paint)] : []),
  ];
}

/** What clients came to, one by one and together. */
function federatedFigures(summary: RunSummary): [string, string, string][] {
  const rows: [string, string, string][] = [];
  const percent = (share: number) => `${(share * 100).toFixed(2)} %`;
  const { clients: each, bytes_up: up, bytes_down: down, simulated_s: simulated, target_accuracy: target } = summary;
  if (each?.client_accuracy_p50 !== undefined)
    rows.push([
      'median client',
      percent(each.client_accuracy_p50),
      `worst tenth ${percent(each.client_accuracy_worst_decile ?? 0)}`,
    ]);
  if (each?.personal_accuracy_p50 !== undefined)
    rows.push([
      'median own model',
      percent(each.personal_accuracy_p50),
      `worst tenth ${percent(each.personal_accuracy_worst_decile ?? 0)}`,
    ]);
  if (target !== undefined) {
    const reached = summary.rounds_to_target ?? null;
    rows.push([
      `to ${percent(target)}`,
      reached === null ? '–' : String(reached),
      reached === null ? 'not reached' : 'rounds',
    ]);
  }
  if (up !== undefined && down !== undefined)
    rows.push(['from clients', formatBytes(up), `${formatBytes(down)} to them`]);
  const { rounds_uncounted: uncounted = 0, left_out: left = {}, epsilon, delta } = summary;
  if (uncounted > 0) rows.push(['not counted', `${uncounted} of ${summary.steps}`, summary.uncounted ?? '']);
  const reasons = Object.entries(left);
  const some = reasons.slice(0, 2).map(([reason, times]) => `${times} × ${reason}`);
  if (reasons.length > 0)
    rows.push([
      'left out',
      String(reasons.reduce((sum, [, times]) => sum + times, 0)),
      `${some.join(', ')}${reasons.length > 2 ? ', …' : ''}`,
    ]);
  if (epsilon !== undefined) rows.push(['epsilon', epsilon.toPrecision(3), `at delta ${delta}`]);
  if (simulated !== undefined) rows.push(['simulated time', formatDuration(simulated), '']);
  return rows;
}
