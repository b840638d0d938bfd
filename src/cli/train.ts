import {
  findRunFolder,
  type Override,
  type RunEvent,
  resolveConfig,
  resume,
  train as start,
} from '../coordinator/index.ts';
import '../schedulers/index.ts';
import { expertShares } from './balance.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { ProgressLine } from './progress.ts';
import { formatEnding } from './summary.ts';
import { formatBytes, formatCount, isInteractive, painter, type Streams } from './terminal.ts';
import { scaleMesh } from './workers.ts';

/** Options of `plexus train`. */
export interface TrainOptions {
  readonly set: readonly string[];
  readonly resume?: string;
  readonly workers?: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** `plexus train CONFIG`: trains, shows progress on standard error and the result on standard output. */
export async function train(file: string | undefined, options: TrainOptions, streams: Streams): Promise<ExitCode> {
  if (file === undefined && options.resume === undefined)
    throw new UsageError('give a config to train (e.g. configs/quickstart.yaml), or a run to go on with (--resume)');
  const source = file ?? (await findRunFolder(options.resume as string)).config;
  const changes: (string | Override)[] = [...options.set];
  const notes: string[] = [];
  if (options.workers !== undefined) {
    const { overrides, explanation } = scaleMesh(resolveConfig(source, options.set).parallel, options.workers);
    changes.push(...overrides);
    notes.push(explanation);
  }
  const view = options.json ? jsonView(streams) : humanView(file ?? null, options, streams);
  for (const note of notes) view.note(note);
  const interrupt = listenForInterrupt(() =>
    view.note('stopping after this step, with a checkpoint; Ctrl-C again stops at once'),
  );
  const { signal } = interrupt;
  try {
    const events =
      options.resume === undefined
        ? start(resolveConfig(source, changes), { signal })
        : resume(options.resume, file === undefined ? changes : resolveConfig(file, changes), { signal });
    let code: ExitCode = exitCodes.ok;
    for await (const event of events) {
      view.event(event);
      if (event.type === 'finished' && event.status === 'interrupted') code = interrupt.code();
    }
    return code;
  } finally {
    view.end();
    interrupt.dispose();
  }
}

/** How events are shown. */
interface View {
  event(event: RunEvent): void;
  note(text: string): void;
  end(): void;
}

function jsonView(streams: Streams): View {
  const write = (value: unknown): void => {
    streams.out.write(`${JSON.stringify(value)}\n`);
  };
  return {
    event: (event) =>
      write(
        event.type === 'failed'
          ? { type: 'failed', reports: event.failure.reports, checkpoint: event.failure.checkpoint }
          : event,
      ),
    note: (message) => write({ type: 'note', message }),
    end: () => undefined,
  };
}

function humanView(config: string | null, options: TrainOptions, streams: Streams): View {
  const colour = isInteractive(streams.err);
  const paint = painter(colour);
  let progress = new ProgressLine(streams.err, 'tok', options.quiet);
  let steps = 0;
  let unit: 'tokens' | 'examples' = 'tokens';
  let sample: Extract<RunEvent, { type: 'sampled' }> | null = null;
  return {
    note: (text) => progress.message(text),
    end: () => progress.end(),
    event: (event) => {
      switch (event.type) {
        case 'preparing':
          if (!colour) return;
          return progress.message(paint('dim', `preparing ${event.what} …`));
        case 'started': {
          steps = event.steps;
          unit = event.unit;
          progress = new ProgressLine(streams.err, unit === 'tokens' ? 'tok' : 'ex', options.quiet);
          const { data, pipeline, expert } = event.mesh;
          const held = event.workers.map((worker) => worker.paramBytes + worker.optimizerBytes);
          progress.message(
            `${event.runId}: ${formatCount(event.parameters)} parameters on ${event.world} worker${event.world > 1 ? 's' : ''} ` +
              `(data ${data} × pipeline ${pipeline}, expert ${expert}; ${formatBytes(Math.max(...held))} each at most), ` +
              `${event.engine}, ${event.threads} thread${event.threads > 1 ? 's' : ''} each, ready in ${(event.startMs / 1000).toFixed(1)} s`,
          );
          if (event.step > 0) progress.message(`continuing after step ${event.step} of ${event.steps}`);
          return;
        }
        case 'step':
          return progress.step({
            done: event.step,
            steps,
            loss: event.loss,
            rate: event.perSecond,
            stepMs: event.stepMs,
            balance: expertShares(event.metrics),
          });
        case 'evaluated':
          return progress.evaluated(event.loss);
        case 'checkpointed':
          return;
        case 'warning':
          return progress.message(`${paint('yellow', '!')} ${event.message}`);
        case 'sampled':
          sample = event;
          return;
        case 'finished':
          progress.end();
          streams.out.write(`${formatEnding({ config, finished: event, sample, unit, colour })}\n`);
          return;
        case 'failed':
          progress.end();
      }
    },
  };
}
