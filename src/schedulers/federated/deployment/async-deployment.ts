import { createRng } from '../../../tensor/index.ts';
import { type AsyncServer, fitWithoutRounds } from '../async-server.ts';
import type { ClientReport, SharedStart } from '../fit-task.ts';
import type { Dropped, LocalWork } from '../simulation.ts';
import { type AnswerBounds, type NewVersion, refusedAnswer, VersionBuffer } from '../version-buffer.ts';
import { RoundsFailed } from './errors.ts';
import type { Participants } from './participants.ts';

/** Times that clients which gave nothing for a version are asked again for it. */
const ATTEMPTS = 5;

/** Who takes part, as far as it matters here. */
type Clients = Pick<Participants, 'roster' | 'clients' | 'signal' | 'enough' | 'close'>;

/** What real clients take part in of which nobody waits for the slowest. */
export interface AsyncDeploymentOptions extends AnswerBounds {
  /** Its own from now on. */
  readonly participants: Clients;
  readonly server: AsyncServer;
  readonly seed: number;
  /** Clients that train at the same time, at most. */
  readonly concurrency: number;
  readonly local: LocalWork;
  /** Milliseconds that a fit may take. */
  readonly deadlineMs: number;
}

/** Where a run is, between two versions. What clients are at is not part of it: who goes on asks them anew. */
export interface AsyncProgress {
  readonly version: number;
  /** Fits that have begun. */
  readonly started: number;
}

/** One of the answers that a version was made of, in their order: with them it can be computed again. */
export interface AnswerRecord {
  readonly client: number;
  /** Number of the fit, which its randomness is drawn by. */
  readonly fit: number;
  /** The version that it began with. */
  readonly version: number;
}

/** A new version of the parameters, and what it was made of. */
export interface DeployedVersion extends NewVersion {
  readonly answers: readonly AnswerRecord[];
  /** Bytes of vectors that went to clients, and came from them. */
  readonly down: number;
  readonly up: number;
}

/** A client that trains. */
interface Flight extends AnswerRecord {
  readonly start: SharedStart;
}

interface Landed extends Flight {
  readonly update: Float32Array | null;
  readonly report: ClientReport;
}

/**
 * Real clients of which nobody waits for the slowest: whoever is there and idle begins with the newest parameters, and a new version
 * is made of as many answers as the server wants, in the order in which they come. With one client at a time, and all of them
 * there, it is the simulation with the same settings, to the bit; with more, the order is the world's.
 */
export class AsyncDeployment {
  readonly params: Float32Array;
  readonly state: Float32Array;
  readonly #options: AsyncDeploymentOptions;
  readonly #participants: Clients;
  readonly #unwatch: () => void;
  /** Ends what clients are at. */
  readonly #stop = new AbortController();
  /** Who trains, by client. */
  readonly #flights = new Map<number, Promise<void>>();
  readonly #landed: Landed[] = [];
  /** Who gave nothing for the version under way: others are asked first. */
  readonly #failed = new Set<number>();
  /** A fault of ours. */
  #fault: { readonly error: unknown } | null = null;
  /** Bytes at the last version. */
  #bytes = { down: 0, up: 0 };
  #wake: (() => void) | null = null;
  #version: number;
  #started: number;
  #start: SharedStart;
  /** What the version under way has so far. */
  #buffer: VersionBuffer | null = null;
  #attempt = 0;

  /** `params` and `state` are those of the server, and are changed. */
  constructor(
    options: AsyncDeploymentOptions,
    params: Float32Array,
    state: Float32Array,
    from: AsyncProgress = { version: 0, started: 0 },
  ) {
    const { participants } = options;
    this.#options = options;
    this.#participants = participants;
    this.params = params;
    this.state = state;
    this.#version = from.version;
    this.#started = from.started;
    this.#start = participants.clients.publish(params, state);
    this.#unwatch = participants.roster.watch(() => this.#wake?.());
  }

  /** How far the next version is: answers that it has, of those that make one. */
  get underway() {
    return { done: this.#buffer?.answers ?? 0, of: this.#options.server.buffer };
  }

  get progress(): AsyncProgress {
    return { version: this.#version, started: this.#started };
  }

  /** Clients that are there, and that are not asked any more. */
  get there(): { readonly ready: number; readonly quarantined: number } {
    const { ready, quarantined } = this.#participants.roster;
    return { ready, quarantined };
  }

  /**
   * Lets clients train until there is a new version.
   * @returns it, or null if the run was stopped before
   * @throws RoundsFailed if there are no clients, or they give nothing again and again
   */
  async next(): Promise<DeployedVersion | null> {
    const { server } = this.#options;
    const { clients, signal } = this.#participants;
    const began = this.#started;
    const dropped: Dropped[] = [];
    const answers: AnswerRecord[] = [];
    const buffer = new VersionBuffer(server, this.params, this.state);
    this.#buffer = buffer;
    this.#failed.clear();
    this.#attempt = 0;
    while (!buffer.full) {
      if (this.#fault) throw this.#fault.error;
      // (Answers that are there first: they may make the version that the next clients begin with.)
      const landed = this.#landed.shift();
      if (!landed) {
        if (!(await this.#busy(dropped))) return null;
        await this.#news(signal);
        continue;
      }
      const { client, fit, version, start, update, report } = landed;
      const staleness = this.#version - version;
      const reason = refusedAnswer(report, staleness, this.#options);
      if (update === null || reason !== null) {
        dropped.push({ client, reason: reason ?? 'it sent no update' });
        if (report.problem !== null) this.#failed.add(client);
        continue;
      }
      buffer.add({ update, report, start, staleness });
      answers.push({ client, fit, version });
    }
    const made = buffer.apply();
    this.#buffer = null;
    this.#version += 1;
    this.#start = clients.publish(this.params, this.state);
    const { roster } = this.#participants;
    const named = dropped.map((each) => ({ ...each, name: roster.nameOf(each.client) }));
    const begun = this.#started - began;
    const { down, up } = clients.bytes;
    const travelled = { down: down - this.#bytes.down, up: up - this.#bytes.up };
    this.#bytes = { down, up };
    return { version: this.#version, ...made, dropped: named, begun, answers, ...travelled };
  }

  /** Lets the clients go. */
  async close(): Promise<void> {
    this.#unwatch();
    this.#stop.abort(new Error('the run is over'));
    await Promise.all(this.#flights.values());
    await this.#participants.close();
  }

  /** Asks whoever can be asked, now that all answers have been seen. @returns whether somebody trains; false if the run was stopped */
  async #busy(dropped: readonly Dropped[]): Promise<boolean> {
    const { concurrency } = this.#options;
    for (;;) {
      if (this.#participants.signal.aborted) return false;
      if (this.#flights.size === 0) {
        const enough = { need: 1, first: concurrency, what: 'a version', hint: '--min-clients' };
        if (!(await this.#participants.enough(enough))) return false;
      }
      this.#launch();
      if (this.#flights.size > 0) return true;
      // All that are there gave nothing for this version.
      this.#attempt += 1;
      const last = dropped.at(-1);
      if (this.#attempt >= ATTEMPTS)
        throw new RoundsFailed(
          `version ${this.#version + 1} cannot be made: nobody who is there gives an update for it` +
            (last ? ` (${this.#participants.roster.nameOf(last.client)}: ${last.reason})` : '') +
            `. They were asked ${ATTEMPTS} times; the checkpoint has all versions before it (--resume)`,
        );
      this.#failed.clear();
    }
  }

  /** Lets as many clients as may train at a time begin with the newest version. */
  #launch(): void {
    const { concurrency, seed } = this.#options;
    const there = this.#participants.roster.numbers();
    const free = there.filter((client) => !this.#flights.has(client) && !this.#failed.has(client));
    while (this.#flights.size < concurrency && free.length > 0) {
      const number = this.#started++;
      // (As the simulation draws them: among all, until it is one who is free.)
      const rng = createRng(seed).fork('async client', number);
      let client = there[rng.integer(there.length)] as number;
      while (!free.includes(client)) client = there[rng.integer(there.length)] as number;
      free.splice(free.indexOf(client), 1);
      this.#fly({ client, fit: number, version: this.#version, start: this.#start });
    }
  }

  #fly(flight: Flight): void {
    const { local, deadlineMs } = this.#options;
    const { roster, clients } = this.#participants;
    // Their own numbers of their own examples: which they are, they alone know.
    const examples = new Int32Array(roster.examples(flight.client));
    const fit = fitWithoutRounds(flight.client, flight.fit, examples, local);
    const { signal } = this.#stop;
    const done = clients.fit(flight.start, fit, { deadlineMs, signal }).then(
      (answer) => {
        this.#landed.push({ ...flight, ...answer });
      },
      (error: unknown) => {
        if (!signal.aborted) this.#fault = { error };
      },
    );
    this.#flights.set(
      flight.client,
      done.finally(() => {
        this.#flights.delete(flight.client);
        this.#wake?.();
      }),
    );
  }

  /** Waits until a client has answered, or others are there, or the run is to stop. */
  async #news(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const wake = () => {
        signal.removeEventListener('abort', wake);
        this.#wake = null;
        resolve();
      };
      this.#wake = wake;
      signal.addEventListener('abort', wake, { once: true });
      if (signal.aborted || this.#fault || this.#landed.length > 0) wake();
    });
  }
}
