import {
  type ClusterOptions,
  findRunFolder,
  type Override,
  type ResolvedConfig,
  type RunEvent,
  resolveConfig,
  resume,
  schedulerNamed,
  train as start,
  type WaitingThreads,
} from '../coordinator/index.ts';
import '../schedulers/index.ts';
import type { ClusterCalls } from './cluster-calls.ts';
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
  readonly minClients?: number;
  readonly standby?: boolean;
}

/** What a command that trains among other things takes part in. */
export interface Outside {
  /** Stops the run as Ctrl-C does. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: RunEvent) => void;
  /** Threads that were started before there was a config. */
  readonly begun?: WaitingThreads | null;
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
  const source = file ?? (await findRunFolder(options.resume as string)).config;
  const changes: (string | Override)[] = [...options.set];
  const notes: string[] = [];
  if (options.workers !== undefined) {
    const { overrides, explanation } = scaleMesh(resolveConfig(source, options.set).parallel, options.workers);
    changes.push(...overrides);
    notes.push(explanation);
  }
  const config = resolveConfig(source, changes);
  const place = placeOf(options, config, file !== undefined);
  checkWorkers(options, place !== null);
  const view = options.json
    ? jsonView(streams)
    : humanView(
        { config: file ?? null, ...(options.quiet ? { quiet: true } : {}), ...shownPlace(place, config) },
        streams,
      );
  for (const note of notes) view.note(note);
  const step = schedulerNamed(config.scheduler.name).alone ? 'round' : 'step';
  const interrupt = listenForInterrupt(() =>
    view.note(`stopping after this ${step}, with a checkpoint; Ctrl-C again stops at once`),
  );
  try {
    const signal = outside.signal ? AbortSignal.any([interrupt.signal, outside.signal]) : interrupt.signal;
    const wanted: Wanted = {
      config,
      // Of a run that goes on with its own config, only what is changed.
      change: file === undefined ? changes : config,
      ...(options.resume === undefined ? {} : { resume: options.resume }),
    };
    const events = place
      ? clusterRun(await calls(), wanted, { nats: place.nats, job: place.job, ...pick(options), signal })
      : localRun(wanted, { signal, begun: outside.begun ?? null });
    const to = (event: RunEvent): void => {
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
  events: AsyncIterable<RunEvent>,
  to: (event: RunEvent) => void,
  interrupt: Interrupt,
): Promise<ExitCode> {
  let code: ExitCode = exitCodes.ok;
  for await (const event of events) {
    to(event);
    if (event.type === 'finished' && event.status === 'interrupted')
      // (Without a signal it was somebody else, with `plexus stop`.)
      code = interrupt.signal.aborted ? interrupt.code() : exitCodes.terminated;
  }
  return code;
}

/** What to train: a config, a run to go on with, or both. */
interface Wanted {
  readonly config: ResolvedConfig;
  readonly resume?: string;
  readonly change: ResolvedConfig | readonly (string | Override)[];
}

function localRun(
  { config, resume: run, change }: Wanted,
  options: { readonly signal: AbortSignal; readonly begun: WaitingThreads | null },
): AsyncIterable<RunEvent> {
  return run === undefined ? start(config, options) : resume(run, change, options);
}

function clusterRun(
  calls: ClusterCalls,
  { config, resume: run, change }: Wanted,
  options: ClusterOptions,
): AsyncIterable<RunEvent> {
  if (run !== undefined) return calls.resumeCluster(run, change, options);
  return calls.trainCluster(config, options);
}

const pick = ({ minWorkers, maxWorkers, minClients, standby }: TrainOptions): Partial<ClusterOptions> => ({
  ...(minWorkers === undefined ? {} : { minWorkers }),
  ...(maxWorkers === undefined ? {} : { maxWorkers }),
  ...(minClients === undefined ? {} : { minClients }),
  ...(standby ? { standby } : {}),
});

/** The server to lead workers over, or null where the workers are threads of this process. */
function placeOf(options: TrainOptions, { comm }: ResolvedConfig, given: boolean): NatsPlace | null {
  if (wantsNats(options)) return natsPlace(options);
  if (comm.control !== 'nats') return null;
  if (comm.nats.url !== null) return natsPlace({ ...options, nats: comm.nats.url });
  // The config of a run that was led over `--nats` says so, but can be gone on with anywhere.
  return given ? natsPlace(options) : null;
}

/** What the view needs to suggest commands that find the same server. */
function shownPlace(place: NatsPlace | null, { scheduler }: ResolvedConfig): { join?: string; flags?: string } {
  if (!place) return {};
  const flags = `--nats ${place.shown}${place.job === 'default' ? '' : ` --job ${place.job}`}`;
  const clients = schedulerNamed(scheduler.name).alone !== undefined;
  return { join: clients ? `plexus client ${flags} --data FILE` : `plexus worker ${flags}`, flags };
}

/** @throws UsageError on flags that do not go together */
function checkWorkers(options: TrainOptions, cluster: boolean): void {
  const { minWorkers, maxWorkers, minClients, standby } = options;
  const needsNats =
    (minWorkers !== undefined && '--min-workers') ||
    (maxWorkers !== undefined && '--max-workers') ||
    (minClients !== undefined && '--min-clients') ||
    (standby && '--standby') ||
    (options.job !== undefined && '--job');
  if (needsNats && !cluster)
    throw new UsageError(
      `${needsNats} is for ${needsNats === '--min-clients' ? 'clients' : 'workers'} on other machines: name their NATS server with --nats URL or PLEXUS_NATS`,
    );
  if (minWorkers !== undefined && maxWorkers !== undefined && minWorkers > maxWorkers)
    throw new UsageError(`--min-workers ${minWorkers} is more than --max-workers ${maxWorkers}`);
}
