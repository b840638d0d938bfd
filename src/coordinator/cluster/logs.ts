import { connectNats, listen } from '../../comm/index.ts';
import { clusterSubjects, type LogRecord } from '../../worker/index.ts';
import { RecordsUnreachable } from './errors.ts';
import type { JobPlace } from './lead.ts';
import { keptLog } from './log-stream.ts';

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
/** Lines that are shown of those before, if it is not said how many. */
const LINES = 100;

/** Which lines of a job are wanted. */
export interface TailOptions {
  /** Whether to go on with those that are written from now on, until `signal`. */
  readonly follow: boolean;
  readonly signal: AbortSignal;
  /** How many of those before. Default 100. */
  readonly lines?: number;
}

/**
 * The newest lines of the processes of a job, as far as the server has kept them: five thousand at most, of a week, since a
 * coordinator first led the job.
 * @throws NatsConnectError; RecordsUnreachable where they cannot be read (with `follow`, that is a line of its own)
 */
export async function* tailLogs(
  place: JobPlace,
  { follow, signal, lines = LINES }: TailOptions,
): AsyncGenerator<LogLine, void> {
  const { job = 'default' } = place;
  const connection = await connectNats({ name: 'plexus logs', ...place.nats });
  const waiting: Uint8Array[] = [];
  let wake: () => void = () => undefined;
  let failed: Error | null = null;
  let over = false;
  const end = (): void => {
    over = true;
    wake();
  };
  const arrived = (data: Uint8Array): void => {
    if (waiting.push(data) > MAX_WAITING) waiting.shift();
    wake();
  };
  const unlisten = follow
    ? listen(
        connection,
        clusterSubjects(job).logs,
        ({ data }) => arrived(data),
        (error) => {
          failed = error;
          wake();
        },
      )
    : null;
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end();
  try {
    const kept = await keptLog(connection, job, lines).catch((error: Error) => {
      const reason = `older lines of job '${job}' cannot be read: ${error.message}`;
      if (!follow) throw new RecordsUnreachable(reason, { cause: error });
      return [new TextEncoder().encode(reason)];
    });
    for (const data of kept) yield lineOf(data);
    if (!follow) return;
    // What was written while the others were read may be among them.
    const shown = new Set(kept.map(textOf));
    for (const data of waiting.splice(0)) if (!shown.has(textOf(data))) yield lineOf(data);
    for (;;) {
      for (let data = waiting.shift(); data; data = waiting.shift()) yield lineOf(data);
      if (failed) throw failed;
      if (over) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (waiting.length > 0 || over || failed) resolve();
      });
    }
  } finally {
    signal.removeEventListener('abort', end);
    unlisten?.();
    await connection.close();
  }
}

function textOf(data: Uint8Array): string {
  return new TextDecoder().decode(data);
}

function lineOf(data: Uint8Array): LogLine {
  const text = textOf(data);
  try {
    const { agent, time, text: line } = JSON.parse(text) as LogRecord;
    return { at: Number(time), from: String(agent), line: String(line) };
  } catch {
    // Not one of this package's lines: shown as it is.
    return { at: Date.now(), from: '?', line: text };
  }
}
