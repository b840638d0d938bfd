import type { Msg, NatsConnection } from '@nats-io/transport-node';

/**
 * Subscribes to a subject. Returns what ends it, once or more often, whatever has become of the connection.
 * @param onError the subscription itself failed (a subject that is not permitted, say); without it that ends the process
 */
export function listen(
  connection: NatsConnection,
  subject: string,
  arrived: (message: Msg) => void,
  onError: (error: Error) => void = unheard,
): () => void {
  const subscription = connection.subscribe(subject, {
    callback: (error, message) => {
      if (error) onError(error);
      else arrived(message);
    },
  });
  let listening = true;
  return () => {
    if (listening && !connection.isClosed()) subscription.unsubscribe();
    listening = false;
  };
}

/**
 * For errors of a subscription that nobody has said he wants to hear: they end the process, with their own words, but not from
 * within the client, which would take them for its own.
 */
function unheard(error: Error): void {
  queueMicrotask(() => {
    throw error;
  });
}
