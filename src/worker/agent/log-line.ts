import type { NatsConnection } from '@nats-io/transport-node';
import { clusterSubjects } from './protocol.ts';

/** A line of a process of a job, as it is published: JSON. */
export interface LogRecord {
  /** Process that wrote it: an agent's id, or `coordinator`. */
  readonly agent: string;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly text: string;
}

/** Writes a line to a job's log; nobody has to listen. */
export function writeLogLine(connection: NatsConnection, job: string, agent: string, text: string): void {
  if (connection.isClosed()) return;
  const line: LogRecord = { agent, time: Date.now(), text };
  connection.publish(clusterSubjects(job).logs, JSON.stringify(line));
}
