import { writeLogLine } from '../../worker/index.ts';
import type { RunEvent } from '../events.ts';
import type { Lead } from './lead.ts';
import { logLineOf } from './log-lines.ts';
import { keepLog } from './log-stream.ts';

/** Events as they come; of those that people want to know later there is a line in the job's log, which the server keeps. */
export async function* logged(
  { records, job }: Lead,
  events: AsyncGenerator<RunEvent, void>,
): AsyncGenerator<RunEvent, void> {
  const { connection } = records;
  const write = (text: string) => writeLogLine(connection, job, 'coordinator', text);
  const warnings: string[] = [];
  // (The run does not wait for it: a cluster of servers may take its time.)
  void keepLog(connection, job).catch((error: Error) => {
    warnings.push(`plexus logs will show new lines only, as the server keeps none: ${error.message}`);
  });
  let last: string | null = null;
  let failed = false;
  try {
    for await (const event of events) {
      for (const message of warnings.splice(0)) yield { type: 'warning', message };
      const line = logLineOf(event);
      // (Who waits for workers says so again and again.)
      if (line !== null && line !== last) write(line);
      last = line ?? last;
      failed ||= event.type === 'failed';
      yield event;
    }
  } catch (error) {
    if (!failed) write(`the run ends: ${(error as Error).message}`);
    throw error;
  }
}
