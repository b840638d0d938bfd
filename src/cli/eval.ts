import { evaluateRun, type RunEvaluation } from '../coordinator/index.ts';
import '../schedulers/index.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { formatTable } from './table.ts';
import { isInteractive, painter, type Streams } from './terminal.ts';

/** Options of `plexus eval`. */
export interface EvalOptions {
  readonly split?: string;
  readonly step?: number;
  readonly set: readonly string[];
  readonly json?: boolean;
}

const SPLITS = ['train', 'validation', 'test'] as const;

/** `plexus eval RUN`: evaluates a checkpoint of a run on a whole split. */
export async function evaluate(run: string, options: EvalOptions, streams: Streams): Promise<ExitCode> {
  const split = SPLITS.find((name) => name === options.split);
  if (options.split !== undefined && split === undefined)
    throw new UsageError(`--split must be one of ${SPLITS.join(', ')}, but is '${options.split}'`);
  const paint = painter(isInteractive(streams.err));
  const interrupt = listenForInterrupt(() => streams.err.write('stopping\n'));
  try {
    const result = await evaluateRun(run, {
      overrides: options.set,
      signal: interrupt.signal,
      ...(split === undefined ? {} : { split }),
      ...(options.step === undefined ? {} : { step: options.step }),
    });
    for (const warning of result.warnings) streams.err.write(`${paint('yellow', '!')} ${warning}\n`);
    streams.out.write(`${options.json ? JSON.stringify(result) : formatEvaluation(result)}\n`);
    return exitCodes.ok;
  } catch (error) {
    if (interrupt.signal.aborted) return interrupt.code();
    throw error;
  } finally {
    interrupt.dispose();
  }
}

/** Metrics that have a number for each task of a sequence, as columns of a table. */
const BY_TASK = { task_accuracy: 'accuracy', task_loss: 'loss' } as const;

/** The figures of an evaluation, one a line: scalars, then what is better or worse than its baseline, then tasks. */
export function formatEvaluation(result: RunEvaluation): string {
  const rows: [string, string][] = [];
  const { loss } = result;
  for (const [name, value] of Object.entries(result.metrics)) {
    if (name === 'loss' || name in BY_TASK) continue;
    rows.push([
      name,
      typeof value === 'number' ? numberText(value) : `[${value.map((each) => each.toFixed(3)).join(', ')}]`,
    ]);
  }
  rows.sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [name, baseline] of Object.entries(result.baselines))
    rows.push([
      `${name} baseline`,
      `${baseline.toFixed(4)}  ${loss !== null && loss < baseline ? 'beaten' : 'not beaten'}`,
    ]);
  if (loss !== null) rows.unshift(['loss', loss.toFixed(4)]);
  const wide = Math.max(...rows.map(([name]) => name.length));
  const amount = result.microbatches === null ? 'all tasks' : `${result.microbatches} microbatches`;
  return [
    `${result.runId}, step ${result.step}, ${result.split} (${amount})`,
    ...rows.map(([name, text]) => `  ${name.padEnd(wide)}  ${text}`),
    ...taskLines(result.metrics),
  ].join('\n');
}

const numberText = (value: number) => (Number.isInteger(value) ? String(value) : value.toFixed(4));

/** A line for each task of a sequence; none where there are no tasks. */
function taskLines(metrics: RunEvaluation['metrics']): string[] {
  const columns = Object.entries(BY_TASK).flatMap(([name, title]) => {
    const values = metrics[name];
    return Array.isArray(values) ? [{ title, values: values as readonly number[] }] : [];
  });
  const tasks = columns[0]?.values.length ?? 0;
  if (tasks === 0) return [];
  const rows = Array.from({ length: tasks }, (_, task) => [
    String(task + 1),
    ...columns.map(({ values }) => (values[task] as number).toFixed(4)),
  ]);
  return formatTable(['task', ...columns.map(({ title }) => title)], rows).map((line) => `  ${line}`);
}
