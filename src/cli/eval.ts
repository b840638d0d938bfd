import { evaluateRun, type RunEvaluation } from '../coordinator/index.ts';
import '../schedulers/index.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
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

/** The figures of an evaluation, one a line: scalars, then what is better or worse than its baseline. */
export function formatEvaluation(result: RunEvaluation): string {
  const rows: [string, string][] = [];
  for (const [name, value] of Object.entries(result.metrics)) {
    if (name === 'loss') continue;
    const text = typeof value === 'number' ? value.toFixed(4) : `[${value.map((item) => item.toFixed(3)).join(', ')}]`;
    rows.push([name, text]);
  }
  rows.sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [name, baseline] of Object.entries(result.baselines))
    rows.push([`${name} baseline`, `${baseline.toFixed(4)}  ${result.loss < baseline ? 'beaten' : 'not beaten'}`]);
  rows.unshift(['loss', result.loss.toFixed(4)]);
  const wide = Math.max(...rows.map(([name]) => name.length));
  return [
    `${result.runId}, step ${result.step}, ${result.split} (${result.microbatches} microbatches)`,
    ...rows.map(([name, text]) => `  ${name.padEnd(wide)}  ${text}`),
  ].join('\n');
}
