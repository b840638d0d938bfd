import type { JetStreamManager, StreamConfig, StreamState } from '@nats-io/jetstream';

/** What a stream holds; null where there is none of that name. @throws the client's error if the server does not say */
export async function streamState(manager: JetStreamManager, name: string): Promise<StreamState | null> {
  try {
    return (await manager.streams.info(name)).state;
  } catch (error) {
    if ((error as { readonly status?: unknown }).status === 404) return null;
    throw error;
  }
}

/** Makes a stream where there is none of that name; one that is there stays as it is. @throws the client's error */
export async function ensureStream(
  manager: JetStreamManager,
  config: Partial<StreamConfig> & { readonly name: string },
): Promise<void> {
  if ((await streamState(manager, config.name)) === null) await manager.streams.add(config);
}
