import type { MessagePort } from 'node:worker_threads';
import type { Transport } from '../comm/index.ts';
import { failureReport } from './failure.ts';
import { optimizeOnlyHotCode } from './hot-code.ts';
import { Position } from './position.ts';
import type { StepReport, WorkerCommand, WorkerEvent, WorkerJob } from './protocol.ts';
import { createRank, type HeldState, type Rank, type RankOverrides } from './rank.ts';
import { SNAPSHOT_SLOTS } from './snapshot-layout.ts';

/** What a rank does besides what it is told. */
export interface ServeOptions {
  /** Takes a snapshot after every so many steps, and at the start if that is not step 0. Default: only when told to. */
  readonly snapshotEvery?: number;
  /** What it begins with is kept elsewhere until it has snapshots of its own: none is taken at the start. */
  readonly kept?: boolean;
  /**
   * Whether steps that are short are told of several at a time: waking the other end costs more than such a step. Default: each is
   * told when it is over.
   */
  readonly gathersSteps?: boolean;
  /** Called with what the rank holds at the end. */
  readonly leaves?: (held: HeldState) => void;
}

/**
 * Runs a rank at the command of whoever holds the other end of `port`: commands are served one after another, between
 * steps. Resolves after `stop`, after a failure (which is reported) or when the port closes; the transport, the engine
 * and the port are closed then.
 */
export async function serve(
  job: WorkerJob,
  transport: Transport,
  port: MessagePort,
  overrides: RankOverrides = {},
  options: ServeOptions = {},
): Promise<void> {
  const commands = new CommandQueue(port);
  const steps = new StepReports((event) => port.postMessage(event), options.gathersSteps === true);
  const post = (event: WorkerEvent) => {
    if (event.type === 'step') return steps.add(event.report);
    steps.flush();
    port.postMessage(event);
  };
  let rank: Rank | null = null;
  try {
    // Without snapshots of its own accord there is only ever the one that was asked for last.
    const snapshotSlots = options.snapshotEvery === undefined ? 1 : SNAPSHOT_SLOTS;
    rank = await createRank(job, transport, { snapshotSlots, ...overrides });
    optimizeOnlyHotCode();
    post({ type: 'ready', ...rank.ready });
    await obey(rank, commands, new Snapshots(rank, post, options), { post, steps });
  } catch (error) {
    const report = rank?.failure(error) ?? failureReport(job.rank, error, new Position(undefined));
    post({ type: 'failed', report });
  } finally {
    await transport.close();
    if (rank) options.leaves?.(rank.held());
    await rank?.dispose();
    commands.close();
    closePort(port);
  }
}

async function obey(
  rank: Rank,
  commands: CommandQueue,
  snapshots: Snapshots,
  { post, steps }: { readonly post: (event: WorkerEvent) => void; readonly steps: StepReports },
): Promise<void> {
  let step = rank.ready.step;
  if (step > 0) await snapshots.settled(step);
  for (;;) {
    const command = await commands.next();
    switch (command?.type) {
      case 'run':
        while (step < command.until) {
          const reports = await rank.steps(step, snapshots.next(step, command.until));
          for (const report of reports) post({ type: 'step', report });
          step += reports.length;
          await snapshots.settled(step);
        }
        steps.flush();
        break;
      case 'evaluate': {
        const metrics = await rank.evaluate(command.split, command.maxMicrobatches, command.chosen);
        post({ type: 'evaluated', id: command.id, metrics });
        break;
      }
      case 'transition': {
        const answers = await rank.transition(command.name, command.args);
        post({ type: 'changed', id: command.id, answers });
        break;
      }
      case 'snapshot':
        await snapshots.take(command.id, step);
        break;
      case 'stop':
        post({ type: 'stopped', trace: rank.traceEvents() });
        return;
      case undefined:
        // The other end is gone: there is nobody to work for.
        return;
    }
  }
}

/** Milliseconds within which steps are told of together. */
const TOGETHER_MS = 5;

/** Tells of steps: of each when it is over, or of short ones several at a time. */
class StepReports {
  readonly #send: (event: WorkerEvent) => void;
  readonly #gathers: boolean;
  #held: StepReport[] = [];
  #sentAt = 0;

  constructor(send: (event: WorkerEvent) => void, gathers: boolean) {
    this.#send = send;
    this.#gathers = gathers;
  }

  add(report: StepReport): void {
    this.#held.push(report);
    if (!this.#gathers || performance.now() - this.#sentAt > TOGETHER_MS) this.flush();
  }

  flush(): void {
    const reports = this.#held;
    if (reports.length === 0) return;
    this.#held = [];
    this.#sentAt = performance.now();
    const [first] = reports;
    this.#send(reports.length === 1 && first ? { type: 'step', report: first } : { type: 'steps', reports });
  }
}

/** Takes a rank's snapshots and tells of them. */
class Snapshots {
  readonly #rank: Rank;
  readonly #post: (event: WorkerEvent) => void;
  readonly #every: number | null;
  /** Completed steps of the snapshot at the start; null for none. */
  readonly #first: number | null;
  #shared = false;

  constructor(rank: Rank, post: (event: WorkerEvent) => void, { snapshotEvery, kept = false }: ServeOptions) {
    this.#rank = rank;
    this.#post = post;
    this.#every = snapshotEvery ?? null;
    this.#first = kept ? null : rank.ready.step;
  }

  /** How far it may go from a step before one is due, at most to `until`. */
  next(step: number, until: number): number {
    if (this.#every === null) return until;
    return Math.min(until, (Math.floor(step / this.#every) + 1) * this.#every);
  }

  /** The rank stands between two steps. */
  async settled(step: number): Promise<void> {
    if (this.#every === null) return;
    const beginning = step === this.#rank.ready.step;
    if (beginning ? step === this.#first : step % this.#every === 0) await this.take(null, step);
  }

  async take(id: number | null, step: number): Promise<void> {
    const taken = await this.#rank.snapshot(step);
    const share = this.#shared ? null : this.#rank.snapshots();
    // (What only other threads of this machine look at is not compared.)
    const digests = taken && id !== null ? this.#rank.digests(taken) : null;
    this.#post({ type: 'snapshotted', id, step: taken && step, share, digests });
    this.#shared = true;
  }
}

/** Lets go of the port. Deno's port to the parent thread has no `close`; there it is enough not to wait on it. */
function closePort(port: MessagePort): void {
  const { close, unref } = port as Partial<MessagePort>;
  if (close) close.call(port);
  else unref?.call(port);
}

/** Commands in the order in which they came; `undefined` once the port has closed. */
class CommandQueue {
  readonly #port: MessagePort;
  readonly #queue: WorkerCommand[] = [];
  #waiting: ((command: WorkerCommand | undefined) => void) | null = null;
  #closed = false;
  readonly #onMessage = (command: WorkerCommand) => {
    if (this.#waiting) {
      this.#waiting(command);
      this.#waiting = null;
    } else this.#queue.push(command);
  };
  readonly #onClose = () => {
    this.#closed = true;
    this.#waiting?.(undefined);
    this.#waiting = null;
  };

  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', this.#onMessage);
    port.on('close', this.#onClose);
  }

  next(): Promise<WorkerCommand | undefined> {
    const command = this.#queue.shift();
    if (command || this.#closed) return Promise.resolve(command);
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  close(): void {
    this.#port.off('message', this.#onMessage);
    this.#port.off('close', this.#onClose);
  }
}
