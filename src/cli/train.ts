import {
  findRunFolder,
  type Override,
  type ResolvedConfig,
  type RunEvent,
  resolveConfig,
  resume,
  train as start,
} from '../coordinator/index.ts';
import '../schedulers/index.ts';
import type { ClusterCalls, ClusterEvent, ClusterRunOptions } from './cluster-calls.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { type Interrupt, listenForInterrupt } from './interrupt.ts';
import { type NatsFlags, type NatsPlace, natsPlace, wantsNats } from './nats-flags.ts';
import { humanView, jsonView } from './run-view.ts';
import type { Streams } from './terminal.ts';
import { scaleMesh } from './workers.ts';

/** Options of `plexus train`. */
export interface TrainOptions extends NatsFlags {
  readonly set: readonly string[];
  readonly resume?: string;
  readonly workers?: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly minWorkers?: number;
  readonly maxWorkers?: number;
  readonly standby?: boolean;
}

/** What a command that trains among other things takes part in. */
export interface Outside {
  /** Stops the run as Ctrl-C does. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: RunEvent | ClusterEvent) => void;
}

/**
 * `plexus train CONFIG`: trains, shows progress on standard error and the result on standard output. With a NATS server it
 * leads the workers that are there; without one it runs all of them itself.
 */
export async function train(
  file: string | undefined,
  options: TrainOptions,
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
  outside: Outside = {},
): Promise<ExitCode> {
  if (file === undefined && options.resume === undefined)
    throw new UsageError('give a config to train (e.g. configs/quickstart.yaml), or a run to go on with (--resume)');
  const place = wantsNats(options) ? natsPlace(options) : null;
  checkWorkers(options, place !== null);
  const source = file ?? (await findRunFolder(options.resume as string)).config;
  const changes: (string | Override)[] = [...options.set];
  const notes: string[] = [];
  if (options.workers !== undefined) {
    const { overrides, explanation } = scaleMesh(resolveConfig(source, options.set).parallel, options.workers);
    changes.push(...overrides);
    notes.push(explanation);
  }
  const view = options.json
    ? jsonView(streams)
    : humanView({ config: file ?? null, ...(options.quiet ? { quiet: true } : {}), ...shownPlace(place) }, streams);
  for (const note of notes) view.note(note);
  const interrupt = listenForInterrupt(() =>
    view.note('stopping after this step, with a checkpoint; Ctrl-C again stops at once'),
  );
  try {
    const signal = outside.signal ? AbortSignal.any([interrupt.signal, outside.signal]) : interrupt.signal;
    const config = file === undefined ? null : resolveConfig(file, changes);
    const run = { ...options, change: config ?? changes, config };
    const events = place
      ? clusterRun(await calls(), run, { nats: place.nats, job: place.job, ...pick(options), signal })
      : localRun(run, signal);
    const to = (event: RunEvent | ClusterEvent): void => {
      outside.onEvent?.(event);
      view.event(event);
    };
    return await show(events, to, interrupt);
  } finally {
    view.end();
    interrupt.dispose();
  }
}

async function show(
  events: AsyncIterable<RunEvent | ClusterEvent>,
  to: (event: RunEvent | ClusterEvent) => void,
  interrupt: Interrupt,
): Promise<ExitCode> {
  let code: ExitCode = exitCodes.ok;
  for await (const event of events) {
    to(event);
    if (event.type === 'finished' && event.status === 'interrupted') code = interrupt.code();
  }
  return code;
}

/** What to train: a config, a run to go on with, or both. */
interface Wanted {
  readonly config: ResolvedConfig | null;
  readonly resume?: string;
  readonly change: ResolvedConfig | readonly (string | Override)[];
}

function localRun({ config, resume: run, change }: Wanted, signal: AbortSignal): AsyncIterable<RunEvent> {
  if (run !== undefined) return resume(run, change, { signal });
  return start(config as ResolvedConfig, { signal });
}

function clusterRun(
  calls: ClusterCalls,
  { config, resume: run, change }: Wanted,
  options: ClusterRunOptions,
): AsyncIterable<RunEvent | ClusterEvent> {
  if (run !== undefined) return calls.resumeCluster(run, change, options);
  return calls.trainCluster(config as ResolvedConfig, options);
}

const pick = ({ minWorkers, maxWorkers, standby }: TrainOptions): Partial<ClusterRunOptions> => ({
  ...(minWorkers === undefined ? {} : { minWorkers }),
  ...(maxWorkers === undefined ? {} : { maxWorkers }),
  ...(standby ? { standby } : {}),
});

/** What the view needs to suggest commands that find the same server. */
function shownPlace(place: NatsPlace | null): { join?: string; flags?: string } {
  if (!place) return {};
  const flags = `--nats ${place.shown}${place.job === 'default' ? '' : ` --job ${place.job}`}`;
  return { join: `plexus worker ${flags}`, flags };
}

/** @throws UsageError on flags that do not go together */
function checkWorkers(options: TrainOptions, cluster: boolean): void {
  const { minWorkers, maxWorkers, standby } = options;
  const needsNats =
    (minWorkers !== undefined && '--min-workers') ||
    (maxWorkers !== undefined && '--max-workers') ||
    (standby && '--standby') ||
    (options.job !== undefined && '--job');
  if (needsNats && !cluster)
    throw new UsageError(
      `${needsNats} is for workers on other machines: name their NATS server with --nats URL or PLEXUS_NATS`,
    );
  if (minWorkers !== undefined && maxWorkers !== undefined && minWorkers > maxWorkers)
    throw new UsageError(`--min-workers ${minWorkers} is more than --max-workers ${maxWorkers}`);
}
