import type { NatsConnection } from '@nats-io/transport-node';

/** What can happen to a connection. */
export interface ConnectionWatcher {
  /** The server is gone; the client tries to reach it, or another one. */
  readonly down?: () => void;
  /** The connection stands again, perhaps to another server. What was under way may be lost. */
  readonly up?: () => void;
  /** A subject is not permitted to this login. */
  readonly denied?: (reason: string) => void;
  /** It was closed for good. */
  readonly closed?: (reason: string) => void;
}

interface Watched {
  readonly watchers: Set<ConnectionWatcher>;
  up: boolean;
}

const connections = new WeakMap<NatsConnection, Watched>();

/** Tells of a connection's fate until the returned function is called. However many watch, the client is asked once. */
export function watchConnection(connection: NatsConnection, watcher: ConnectionWatcher): () => void {
  const { watchers } = watched(connection);
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

/** Whether a connection stands at the moment. */
export function connectionUp(connection: NatsConnection): boolean {
  return !connection.isClosed() && watched(connection).up;
}

function watched(connection: NatsConnection): Watched {
  let found = connections.get(connection);
  if (!found) {
    found = { watchers: new Set(), up: true };
    connections.set(connection, found);
    void follow(connection, found);
  }
  return found;
}

async function follow(connection: NatsConnection, state: Watched): Promise<void> {
  void connection.closed().then((error) => {
    state.up = false;
    const reason = `the connection to NATS was closed${error ? `: ${error.message}` : ''}`;
    for (const { closed } of [...state.watchers]) closed?.(reason);
  });
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') {
      state.up = false;
      for (const { down } of [...state.watchers]) down?.();
    } else if (status.type === 'reconnect') {
      state.up = true;
      for (const { up } of [...state.watchers]) up?.();
    } else if (status.type === 'error' && status.error.name === 'PermissionViolationError') {
      // (A login that is refused in mid-run closes the connection; a subject that is not permitted does not.)
      for (const { denied } of [...state.watchers]) denied?.(status.error.message);
    }
  }
}

/**
 * Whether a call of JetStream failed because there is none to be had: the server, or the account of this login, goes without.
 * A cluster in which one server has just died says the same ("no responders") until it has elected who answers in its place;
 * that passes, and is told apart by what the server said of itself when it greeted us.
 */
export function lacksJetStream(connection: NatsConnection, error: unknown): boolean {
  const { name = '', message = '' } = (error ?? {}) as Partial<Error>;
  if (!/JetStreamNotEnabled|not enabled|no responders/i.test(`${name} ${message}`)) return false;
  return /for account/i.test(message) || connection.info?.jetstream !== true;
}

/** Whether a call failed because this login is not permitted to do that: nothing that a repetition changes. */
export function isForbidden(error: unknown): boolean {
  const { name = '', message = '' } = (error ?? {}) as Partial<Error>;
  return /Permission|Authorization/.test(name) || /permissions violation/i.test(message);
}
