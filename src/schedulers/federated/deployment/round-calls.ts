import type { NatsConnection } from '@nats-io/transport-node';
import { ControlRequester } from '../../../comm/index.ts';
import { type ClientRequest, clientSubject, type ToClient } from './messages.ts';
import type { LiveClient, Roster } from './roster.ts';

/** Where clients are, and how long a round may take. */
export interface RoundCallsOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  readonly roster: Roster;
  /** Milliseconds that a round may take. */
  readonly deadlineMs: number;
}

/** What clients are asked in a round: every call ends by its part of the round's time, or when its client is gone. */
export class RoundCalls {
  readonly #options: RoundCallsOptions;
  readonly #requester: ControlRequester;
  /** When the round that is under way began. */
  #began = 0;
  #bytes = { down: 0, up: 0 };

  constructor(options: RoundCallsOptions) {
    this.#options = options;
    this.#requester = new ControlRequester(options.nats);
  }

  /** Begins a round: from now on its deadline runs. */
  begin(): void {
    this.#began = performance.now();
    this.#bytes = { down: 0, up: 0 };
  }

  /** Bytes that went to clients, and came from them, since the round began. */
  get bytes(): { readonly down: number; readonly up: number } {
    return { ...this.#bytes };
  }

  count({ down = 0, up = 0 }: { readonly down?: number; readonly up?: number }): void {
    this.#bytes.down += down;
    this.#bytes.up += up;
  }

  /** Milliseconds until a part of the round's time has passed; negative when it has. */
  left(part: number): number {
    return this.#began + part * this.#options.deadlineMs - performance.now();
  }

  /** A client that is there. @throws Error if it is not */
  live(client: number): LiveClient {
    const live = this.#options.roster.live(client);
    if (!live) throw new Error('it left');
    return live;
  }

  /** Raised when the client is gone, or with `signal`. */
  gone(client: number, signal?: AbortSignal): AbortSignal {
    const { gone } = this.live(client);
    return signal ? AbortSignal.any([gone.signal, signal]) : gone.signal;
  }

  /**
   * Asks one client, until it answers.
   * @param deadlineMs milliseconds that it has; what is `left` of a round's time, where there are rounds
   * @throws Error if it is not there, the time has passed or `signal` is raised; ControlTimeout, ControlError
   */
  async ask(message: ClientRequest, deadlineMs: number, signal?: AbortSignal): Promise<unknown> {
    const { name, id } = this.live(message.client);
    if (deadlineMs <= 0) throw new Error('the deadline of the round had passed');
    return this.#requester.request(clientSubject(this.#options.job, name, id), message, {
      deadlineMs,
      signal: this.gone(message.client, signal),
    });
  }

  /** Tells all clients that a session is over, and asks nobody any more. */
  async close(session: string, reason: string): Promise<void> {
    const message: ToClient = { type: 'end', session, reason };
    const { job, roster } = this.#options;
    await Promise.all(
      roster.all().map(({ id, name }) =>
        this.#requester
          .request(clientSubject(job, name, id), message, { deadlineMs: 1000 })
          // (Who does not hear it notices that nobody answers it any more.)
          .catch(() => undefined),
      ),
    );
    this.#requester.close();
  }
}
