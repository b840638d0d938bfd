import { DiscardPolicy, jetstreamManager, RetentionPolicy, StorageType } from '@nats-io/jetstream';
import { type NatsConnection, nanos } from '@nats-io/transport-node';
import { ensureStream, streamState } from '../../comm/index.ts';
import { clusterSubjects } from '../../worker/index.ts';

/** Of a job's lines the server keeps so many, of so many bytes, for so many days. */
const KEPT = { lines: 5000, bytes: 2 ** 20, days: 7 };
/** Lines that are asked for at a time. */
const AT_ONCE = 50;

const streamOf = (job: string): string => `plexus-${job}-logs`;

/**
 * Has the server keep the newest lines of a job's processes, from now on: whoever writes a line does so as ever.
 * @throws the client's error if there is no JetStream, no room, or the login may not make streams
 */
export async function keepLog(connection: NatsConnection, job: string): Promise<void> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  await ensureStream(manager, {
    name: streamOf(job),
    subjects: [clusterSubjects(job).logs],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.Old,
    max_msgs: KEPT.lines,
    max_bytes: KEPT.bytes,
    max_age: nanos(KEPT.days * 24 * 3600 * 1000),
  });
}

/**
 * The newest lines that are kept of a job, oldest first, as they were published; none where no coordinator has ever led it.
 * @throws the client's error if there is no JetStream, or the login may not read the stream
 */
export async function keptLog(connection: NatsConnection, job: string, lines: number): Promise<Uint8Array[]> {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  const state = await streamState(manager, streamOf(job));
  if (!state || lines === 0) return [];
  const found: Uint8Array[] = [];
  const first = Math.max(state.first_seq, state.last_seq - lines + 1);
  for (let from = first; from <= state.last_seq; from += AT_ONCE) {
    const count = Math.min(AT_ONCE, state.last_seq - from + 1);
    const asked = Array.from({ length: count }, (_, i) => manager.streams.getMessage(streamOf(job), { seq: from + i }));
    // (Null: one that has been dropped since.)
    for (const message of await Promise.all(asked)) if (message) found.push(message.data);
  }
  return found;
}
