import type { NatsConnection } from '@nats-io/transport-node';
import { connectNats } from '../../comm/index.ts';
import { clusterSubjects } from '../../worker/index.ts';
import type { JobPlace } from './lead.ts';

/** A line of a process of a job. */
export interface LogLine {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Process that wrote it: an agent's id, or `coordinator`. */
  readonly from: string;
  readonly line: string;
}

/** Lines that wait for the reader; the oldest are dropped when there are more. */
const MAX_WAITING = 10_000;
/** How long lines are listened for that nobody keeps, in milliseconds, where the reader does not want to follow. */
const GLANCE_MS = 2000;

/** Writes a line to a job's log; nobody has to listen. */
export function publishLog(connection: NatsConnection, job: string, text: string, level = 'info'): void {
  if (connection.isClosed()) return;
  const line = { agent: 'coordinator', time: Date.now(), level, text };
  connection.publish(clusterSubjects(job).logs, JSON.stringify(line));
}

/**
 * Lines that the processes of a job write from now on; no server keeps older ones. Without `follow` it listens for two
 * seconds.
 */
export async function* tailLogs(
  place: JobPlace,
  { follow, signal }: { readonly follow: boolean; readonly signal: AbortSignal },
): AsyncGenerator<LogLine, void> {
  const { job = 'default' } = place;
  const connection = await connectNats({ name: 'plexus logs', ...place.nats });
  const waiting: LogLine[] = [];
  let wake: () => void = () => undefined;
  let failed: Error | null = null;
  let over = false;
  const end = (): void => {
    over = true;
    wake();
  };
  const subscription = connection.subscribe(clusterSubjects(job).logs, {
    callback: (error, message) => {
      if (error) failed = error;
      else if (waiting.push(lineOf(message.data)) > MAX_WAITING) waiting.shift();
      wake();
    },
  });
  const timer = follow ? null : setTimeout(end, GLANCE_MS);
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end();
  try {
    for (;;) {
      for (let line = waiting.shift(); line; line = waiting.shift()) yield line;
      if (failed) throw failed;
      if (over) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (waiting.length > 0 || over || failed) resolve();
      });
    }
  } finally {
    if (timer) clearTimeout(timer);
    signal.removeEventListener('abort', end);
    subscription.unsubscribe();
    await connection.close();
  }
}

function lineOf(data: Uint8Array): LogLine {
  const text = new TextDecoder().decode(data);
  try {
    const { agent, time, text: line } = JSON.parse(text) as { agent: string; time: number; text: string };
    return { at: Number(time), from: String(agent), line: String(line) };
  } catch {
    // Not one of this package's lines: shown as it is.
    return { at: Date.now(), from: '?', line: text };
  }
}
