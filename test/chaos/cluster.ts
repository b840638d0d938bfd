import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NatsServers, type ServersOptions } from './nats.ts';
import { builtCli, type Exit, type Proc, Processes, type ProcOptions, root } from './processes.ts';
import { chaosConfig, type ProjectOptions, writeProject } from './project.ts';

/** One line of `plexus train --json`. Which fields there are depends on the type (`src/coordinator/events.ts`). */
export interface Event {
  readonly type: string;
  /** When it was read, in milliseconds of this process's clock. */
  readonly at: number;
  readonly [field: string]: unknown;
}

/** What a run came to, from its summary.json and metrics.jsonl. */
export interface Outcome {
  readonly losses: string;
  readonly weights: string;
  readonly samples: number;
  /** The steps of metrics.jsonl in the order of its lines. */
  readonly steps: readonly number[];
  /** Their losses: where two runs part is seen here. */
  readonly lossOfSteps: readonly number[];
  /** SHA-256 of each tensor of its last checkpoint, optimizer state included, by name. */
  readonly tensors: Readonly<Record<string, string>>;
}

/** The tensors in which two runs ended differently, of those that both have in their folders. */
export function differing(one: Outcome, other: Outcome): string[] {
  return Object.keys(one.tensors).filter((name) => name in other.tensors && one.tensors[name] !== other.tensors[name]);
}

/** At which instruction a process sleeps or dies: see at-instruction.mjs. */
export type AtInstruction =
  | { readonly op: string; readonly sleepMs: number }
  | {
      readonly op: string;
      /** Steps done before; the first rank to get there or further. */
      readonly step?: number;
      readonly mode?: 'train' | 'evaluate';
      readonly nth?: number;
      readonly afterMs?: number;
      /** File that says that it has happened: set by `Cluster.once`. */
      readonly once?: string;
    };

/** Whether two runs came to the same: losses, weights and the rest to the bit. */
export function sameOutcome(one: Outcome, other: Outcome): boolean {
  const compared = (outcome: Outcome) => JSON.stringify({ ...outcome, tensors: {} });
  return compared(one) === compared(other) && differing(one, other).length === 0;
}

/** How one process of the command line is started. */
export interface PlexusOptions extends ProcOptions {
  readonly args?: readonly string[];
  /** The server's URL, if not all of the cluster's; `null` for none. */
  readonly url?: string | null;
  /** Runs the command line, instead of this Node on the build. */
  readonly program?: readonly string[];
  /** Workers only. */
  readonly slots?: number;
  /** Workers only, Node only. */
  readonly at?: readonly AtInstruction[];
  readonly job?: string;
}

/** A run of `plexus train --json` and its events. */
export class Training {
  readonly proc: Proc;
  readonly events: readonly Event[];
  readonly #cluster: Cluster;

  constructor(cluster: Cluster, proc: Proc, events: readonly Event[]) {
    this.#cluster = cluster;
    this.proc = proc;
    this.events = events;
  }

  /** Steps done so far. */
  get step(): number {
    const last = this.events.findLast(({ type }) => type === 'step');
    return (last?.step as number | undefined) ?? 0;
  }

  /** All events of a type so far. */
  of(type: string): readonly Event[] {
    return this.events.filter((event) => event.type === type);
  }

  /** Waits for an event that fits, from the `from`th on. @throws Error if the process ends without it */
  event(type: string, fits: (event: Event) => boolean = () => true, deadlineMs = 30_000, from = 0): Promise<Event> {
    return this.#cluster.processes.until(`an event '${type}' of ${this.proc.name}`, deadlineMs, () => {
      const found = this.events.slice(from).find((event) => event.type === type && fits(event));
      if (!found && !this.proc.running) throw new Error('the process has ended');
      return found;
    });
  }

  /** Waits until this many steps are done. */
  reached(step: number, deadlineMs = 30_000): Promise<Event> {
    return this.event('step', (event) => (event.step as number) >= step, deadlineMs);
  }

  /** Waits for the process to end well, and reads what the run came to. */
  async outcome(deadlineMs = 45_000): Promise<Outcome> {
    const { code } = await this.#cluster.processes.exitOf(this.proc, deadlineMs);
    const finished = this.events.findLast(({ type }) => type === 'finished');
    if (code !== 0 || finished?.status !== 'completed')
      throw new Error(`${this.proc.name} did not complete its run\n${this.#cluster.processes.describe()}`);
    const differ = this.of('warning').find(({ message }) =>
      /other bits than|gradient's norm is/.test(message as string),
    );
    if (differ) throw new Error(`${this.proc.name}: ${differ.message as string}`);
    return outcomeOf(finished.dir as string);
  }
}

/** Reads summary.json and metrics.jsonl of a run folder. */
export function outcomeOf(dir: string): Outcome {
  const summary = JSON.parse(readFileSync(join(dir, 'summary.json'), 'utf8')) as Record<string, unknown>;
  const metrics = readFileSync(join(dir, 'metrics.jsonl'), 'utf8').trim().split('\n');
  const lines = metrics.map((line) => JSON.parse(line) as { step: number; loss?: number; lr?: number });
  // Evaluations have lines of their own.
  const steps = lines.filter(({ lr }) => lr !== undefined);
  return {
    losses: summary.losses_sha256 as string,
    weights: summary.weights_sha256 as string,
    samples: summary.samples_seen as number,
    steps: steps.map(({ step }) => step),
    lossOfSteps: steps.map(({ loss }) => loss ?? Number.NaN),
    tensors: lastTensors(join(dir, 'checkpoints')),
  };
}

/** See `Outcome.tensors`. */
function lastTensors(folder: string): Record<string, string> {
  const steps = existsSync(folder) ? readdirSync(folder).filter((name) => /^step-\d+$/.test(name)) : [];
  const last = steps.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5))).at(-1);
  const shards =
    last === undefined ? [] : readdirSync(join(folder, last)).filter((name) => name.endsWith('.safetensors'));
  const tensors: Record<string, string> = {};
  for (const shard of shards) {
    const bytes = readFileSync(join(folder, last as string, shard));
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, { data_offsets?: [number, number] }>;
    for (const [name, { data_offsets: place }] of Object.entries(header))
      if (place)
        tensors[name] = createHash('sha256')
          .update(bytes.subarray(start + place[0], start + place[1]))
          .digest('hex');
  }
  return tensors;
}

/** Options of a cluster. */
export interface ClusterOptions {
  /** NATS servers to start, or null for none. */
  readonly nats?: ServersOptions | null;
}

/**
 * Real processes of one test: nats-server, `plexus worker`, `plexus train`. `close` ends and removes everything, in
 * whatever state it is.
 */
export class Cluster {
  /** A folder of the test's own: corpus, configs, runs, stores of the servers. */
  readonly folder: string;
  readonly processes: Processes;
  readonly #closing: (() => unknown)[] = [];
  readonly #stopping: (() => void)[] = [];
  #servers: NatsServers | null = null;
  #configs = 0;
  #marks = 0;
  #workers = 0;
  #trainings = 0;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'plexus-chaos-'));
    this.processes = new Processes();
  }

  /** Starts the servers. */
  static async start({ nats = {} }: ClusterOptions = {}): Promise<Cluster> {
    const cluster = new Cluster();
    try {
      if (nats) cluster.#servers = await NatsServers.start(cluster.processes, cluster.folder, nats);
      return cluster;
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  get nats(): NatsServers {
    if (!this.#servers) throw new Error('this cluster was started without NATS servers');
    return this.#servers;
  }

  /** Done at the end, after the processes: the last added first. */
  onClose(close: () => unknown): void {
    this.#closing.push(close);
  }

  /** Writes a config and returns its path. */
  config(options: ProjectOptions = {}): string {
    return writeProject(this.folder, `config-${this.#configs++}`, {
      ...chaosConfig(this.folder, options),
      run: { dir: join(this.folder, `runs-${this.#configs}`) },
    });
  }

  /** Starts `plexus worker`. */
  worker(options: PlexusOptions = {}): Proc {
    const { slots, args = [] } = options;
    const flags = slots === undefined ? [] : ['--slots', String(slots)];
    return this.#plexus(`worker ${this.#workers++}`, ['worker', ...this.#place(options), ...flags, ...args], options);
  }

  /** Marks points so that each kills one process of all that are given them, also of those that come later. */
  once(points: readonly AtInstruction[]): AtInstruction[] {
    return points.map((point) =>
      'sleepMs' in point
        ? point
        : { ...point, once: join(this.folder, `killed-${String(this.#marks++).padStart(3, '0')}`) },
    );
  }

  /** Starts several workers alike. */
  workers(count: number, options: PlexusOptions = {}): Proc[] {
    return Array.from({ length: count }, () => this.worker(options));
  }

  /**
   * Starts workers, and a new one whenever one has ended, as a supervisor of a real cluster would. Returns those that
   * run now, and how to stop the replacing.
   */
  keep(count: number, options: PlexusOptions = {}): { readonly running: () => Proc[]; stop(): void } {
    const workers: Proc[] = [];
    let stopped = false;
    const start = () => {
      if (stopped) return;
      const worker = this.worker(options);
      workers.push(worker);
      void worker.ended.then(start);
    };
    for (let index = 0; index < count; index++) start();
    this.#stopping.push(() => {
      stopped = true;
    });
    return {
      running: () => workers.filter((worker) => worker.running),
      stop: () => {
        stopped = true;
      },
    };
  }

  /** Starts `plexus train --json`. */
  train(config: string, options: PlexusOptions = {}): Training {
    const events: Event[] = [];
    const args = ['train', config, '--json', ...this.#place(options), ...(options.args ?? [])];
    const proc = this.#plexus(`train ${this.#trainings++}`, args, options, (line) => {
      // What is printed is for machines, line by line; anything else there is a bug that a test should see.
      events.push({ at: performance.now(), ...(JSON.parse(line) as { type: string }) });
    });
    return new Training(this, proc, events);
  }

  /** Runs any other command to its end. */
  async command(
    args: readonly string[],
    options: PlexusOptions = {},
    deadlineMs = 30_000,
  ): Promise<Exit & { readonly lines: readonly string[] }> {
    const [name = ''] = args;
    const proc = this.#plexus(name, [...args, ...this.#place(options), ...(options.args ?? [])], options);
    const exit = await this.processes.exitOf(proc, deadlineMs);
    return { ...exit, lines: proc.lines };
  }

  /** What the same config comes to on one worker, in one process, undisturbed. */
  async serial(config: string, args: readonly string[] = []): Promise<Outcome> {
    const alone = ['parallel={}', `run.dir=${JSON.stringify(join(this.folder, `serial-${this.#trainings}`))}`];
    const flags = [...alone.flatMap((set) => ['--set', set]), ...args];
    return this.train(config, { url: null, args: flags }).outcome();
  }

  /** The steps that a killed instruction hit: lines `rank R step S OP`, in order of the test's marks. */
  kills(): string[] {
    return readdirSync(this.folder)
      .filter((name) => name.startsWith('killed-'))
      .sort()
      .flatMap((name) => readFileSync(join(this.folder, name), 'utf8').trim().split('\n'));
  }

  /** Ends every process, then what was given to `onClose`, then removes the folder. */
  async close(): Promise<void> {
    for (const stop of this.#stopping) stop();
    await this.processes.close();
    const errors: unknown[] = [];
    for (const close of this.#closing.splice(0).reverse())
      try {
        await close();
      } catch (error) {
        errors.push(error);
      }
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 3 });
    if (errors.length > 0) throw errors[0];
  }

  #place({ url, job }: PlexusOptions): string[] {
    if (url === null) return [];
    return ['--nats', url ?? this.nats.url, ...(job === undefined ? [] : ['--job', job])];
  }

  #plexus(name: string, args: readonly string[], options: PlexusOptions, onLine?: (line: string) => void): Proc {
    const { program = builtCli, cwd = this.folder, at } = options;
    const hook = at && {
      NODE_OPTIONS: `--import ${join(root, 'test', 'chaos', 'at-instruction.mjs')}`,
      PLEXUS_AT: JSON.stringify(at.map((point) => ('sleepMs' in point || point.once ? point : this.once([point])[0]))),
    };
    const env = { ...hook, ...options.env };
    return this.processes.start(name, [...program, ...args], { ...options, cwd, env }, onLine);
  }
}
