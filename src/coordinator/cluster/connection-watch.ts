import type { NatsConnection } from '@nats-io/transport-node';
import { connectionUp, watchConnection } from '../../comm/index.ts';
import { ClusterError } from './errors.ts';
import type { Waker } from './waker.ts';

/** How long after a reconnect agents may be about to come back too, in milliseconds. */
const SETTLE_MS = 2000;
/** A connection that is down is looked at this often, in milliseconds. */
const LOOK_MS = 50;

/** What happens to a connection. */
export interface ConnectionHooks {
  readonly changed: (up: boolean) => void;
  /** For good. */
  readonly closed: (reason: string) => void;
}

/** The coordinator's own connection to the server: while it is down, nobody else's silence means anything. */
export class ConnectionWatch {
  readonly #connection: NatsConnection;
  readonly #deadlineMs: number;
  readonly #waker: Waker;
  readonly #unwatch: () => void;
  #upAt = Number.NEGATIVE_INFINITY;
  #downs = 0;

  /** @param deadlineMs how long it may be down */
  constructor(connection: NatsConnection, deadlineMs: number, waker: Waker, { changed, closed }: ConnectionHooks) {
    this.#connection = connection;
    this.#deadlineMs = deadlineMs;
    this.#waker = waker;
    this.#unwatch = watchConnection(connection, {
      down: () => {
        this.#downs += 1;
        changed(false);
      },
      up: () => {
        this.#upAt = performance.now();
        changed(true);
      },
      closed,
    });
  }

  get up(): boolean {
    return connectionUp(this.#connection);
  }

  /** How often it has broken so far. */
  get downs(): number {
    return this.#downs;
  }

  /** Whether agents have had time to come back after a reconnect of this process or of the server. */
  get settled(): boolean {
    return performance.now() - this.#upAt > SETTLE_MS;
  }

  /** Waits while it is down. @throws ClusterError after the deadline; the waker's reason */
  async steady(): Promise<void> {
    const until = performance.now() + this.#deadlineMs;
    while (!this.up) {
      if (performance.now() > until)
        throw new ClusterError(
          `the NATS server was not there for ${(this.#deadlineMs / 1000).toFixed(0)} s (comm.deadline_s): the run can be resumed when it is back`,
        );
      await this.#waker.pause(LOOK_MS);
    }
  }

  stop(): void {
    this.#unwatch();
  }
}
