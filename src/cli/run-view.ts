import type { FederatedStart, Metrics, RunEvent, StartedEvent } from '../coordinator/index.ts';
import { expertShares } from './balance.ts';
import { ClusterNarrator } from './cluster-view.ts';
import { ProgressLine } from './progress.ts';
import { formatEnding } from './summary.ts';
import { formatBytes, formatCount, isInteractive, painter, type Streams, shownPath } from './terminal.ts';

/** How the events of a run are shown. */
export interface View {
  event(event: RunEvent): void;
  note(text: string): void;
  end(): void;
}

/** One JSON object a line on standard output, nothing for people. */
export function jsonView(streams: Streams): View {
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

/** Progress on standard error, the result on standard output. */
export function humanView(
  run: {
    /** The config file as given, or null where the run's own is used. */
    readonly config: string | null;
    readonly quiet?: boolean;
    /** The command that lets other machines join, for runs over NATS. */
    readonly join?: string;
    /** Flags that a suggested command needs to find the same server. */
    readonly flags?: string;
  },
  streams: Streams,
): View {
  const colour = isInteractive(streams.err);
  const paint = painter(colour);
  const narrator = new ClusterNarrator(run.join ?? 'plexus worker');
  let progress = new ProgressLine(streams.err, 'tok', run.quiet);
  let steps = 0;
  let federated: FederatedStart | null = null;
  let simulated: number | null = null;
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
          federated = event.federated ?? null;
          if (federated) {
            simulated = federated.simulatedSeconds;
            progress = new ProgressLine(streams.err, { step: wordOf(federated), unit: 'clients' }, run.quiet);
            for (const line of federatedStart(event, federated)) progress.message(line);
            return;
          }
          progress = new ProgressLine(streams.err, unit === 'tokens' ? 'tok' : 'ex', run.quiet);
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
          if (simulated !== null) simulated += Number(event.metrics.simulated_s ?? 0);
          return progress.step({
            done: event.step,
            steps,
            loss: event.loss,
            ...(simulated === null ? {} : { simulated }),
            rate: federated ? (1000 * Number(event.metrics.clients ?? 0)) / event.stepMs : event.perSecond,
            stepMs: event.stepMs,
            stretch: event.stretch,
            balance: expertShares(event.metrics),
            cluster: narrator.state,
          });
        case 'underway':
          return progress.underway({ ...event, steps });
        case 'evaluated':
          return progress.evaluated(event.loss, accuracyIn(event.metrics));
        case 'task': {
          const known = event.accuracies.slice(0, event.task).map((share) => (share * 100).toFixed(1));
          const average = `${(event.average * 100).toFixed(1)} % on average`;
          return progress.message(`task ${event.task}/${event.tasks} learnt: ${known.join('  ')}  (${average})`);
        }
        case 'checkpointed':
          return;
        case 'warning':
          return progress.message(`${paint('yellow', '!')} ${event.message}`);
        case 'sampled':
          sample = event;
          return;
        case 'finished':
          progress.end();
          streams.out.write(
            `${formatEnding({ config: run.config, finished: event, sample, unit, colour, columns: streams.err.columns, flags: run.flags ?? '', federated })}\n`,
          );
          return;
        case 'failed':
          progress.end();
          return;
        default:
          for (const line of narrator.lines(event))
            progress.message(line.startsWith('!') ? line.replace('!', paint('yellow', '!')) : line);
      }
    },
  };
}

const wordOf = ({ steps }: FederatedStart) => (steps === 'rounds' ? 'round' : 'version');

/** The first lines of a run with clients in place of workers. */
function federatedStart(event: StartedEvent, { steps, clients, width, picture }: FederatedStart): string[] {
  const number = (value: number) => value.toLocaleString('en');
  const taking = steps === 'rounds' ? `${number(width)} a round` : `${number(width)} at a time`;
  const threads = `${event.world} thread${event.world > 1 ? 's' : ''}`;
  const lines = [
    `${event.runId}: ${formatCount(event.parameters)} parameters, ${number(clients)} clients (${taking}) ` +
      `on ${threads}, ${event.engine}, ready in ${(event.startMs / 1000).toFixed(1)} s`,
  ];
  if (picture) lines.push(`who has which data: ${shownPath(picture)}`);
  if (event.step > 0) lines.push(`continuing after ${steps.slice(0, -1)} ${event.step} of ${event.steps}`);
  return lines;
}

function accuracyIn({ accuracy }: Metrics): number | null {
  return typeof accuracy === 'number' ? accuracy : null;
}
