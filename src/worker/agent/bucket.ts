import { type KV, Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { clusterKeys } from './protocol.ts';

/** Copies of a job's bucket in a cluster of servers: one may be lost. */
const COPIES = 3;

/**
 * A job's bucket, made if there is none: in a cluster with a copy on three servers, so that it outlives one of them, otherwise
 * with one. @throws the client's error if there is no JetStream, or the login may not use it
 */
export async function makeBucket(connection: NatsConnection, job: string): Promise<KV> {
  const buckets = new Kvm(connection);
  const name = clusterKeys.bucket(job);
  const clustered = (connection.info as { readonly cluster?: string } | undefined)?.cluster !== undefined;
  if (!clustered) return buckets.create(name, { history: 1 });
  try {
    return await buckets.create(name, { history: 1, replicas: COPIES });
  } catch (error) {
    const { message } = error as Error;
    // A cluster of two, or a bucket that was made when there were fewer.
    if (!/insufficient|no suitable peers|already in use|different configuration|replicas/i.test(message)) throw error;
    return buckets.create(name, { history: 1 }).catch(() => buckets.open(name));
  }
}
