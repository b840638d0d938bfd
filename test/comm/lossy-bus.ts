import type { Msg, NatsConnection } from '@nats-io/transport-node';

/** A NATS connection in memory that loses messages: as much of it as control messages and blobs need. */
export interface LossyBus {
  connect(): NatsConnection;
  /** Messages that were published, and those that were lost. */
  readonly counts: { published: number; lost: number };
  /** Decides which messages are lost, by subject and number. */
  lose: (subject: string, n: number) => boolean;
  /** What timeouts are multiplied by, so that tests do not wait. */
  hurry: number;
}

let requests = 0;

type Listener = (error: Error | null, message: Msg) => void;

export function lossyBus(maxPayload = 4096): LossyBus {
  const listeners = new Map<string, Set<Listener>>();
  const bus: LossyBus = {
    counts: { published: 0, lost: 0 },
    lose: () => false,
    hurry: 1,
    connect() {
      let closed = false;
      const connection = {
        info: { max_payload: maxPayload },
        isClosed: () => closed,
        closed: () => new Promise<void>(() => undefined),
        async *status() {},
        close: async () => {
          closed = true;
        },
        publish(subject: string, data: Uint8Array, options: { reply?: string } = {}) {
          if (data.length > maxPayload) throw new Error(`payload of ${data.length} bytes, at most ${maxPayload}`);
          if (bus.lose(subject, bus.counts.published++)) {
            bus.counts.lost += 1;
            return;
          }
          const copy = Uint8Array.from(data);
          setImmediate(() => {
            for (const listener of listeners.get(subject) ?? [])
              listener(null, { subject, data: copy, reply: options.reply } as Msg);
          });
        },
        request(subject: string, data: Uint8Array, { timeout }: { timeout: number }) {
          return new Promise<Msg>((resolve, reject) => {
            const reply = `reply.${requests++}`;
            const over = () => {
              clearTimeout(timer);
              subscription.unsubscribe();
            };
            const timer = setTimeout(() => {
              over();
              reject(Object.assign(new Error('timeout'), { name: 'TimeoutError' }));
            }, timeout * bus.hurry);
            const subscription = connection.subscribe(reply, {
              callback: (_error, message) => {
                over();
                resolve(message);
              },
            });
            connection.publish(subject, data, { reply });
          });
        },
        subscribe(subject: string, { callback }: { callback: Listener }) {
          const set = listeners.get(subject) ?? new Set();
          listeners.set(subject, set.add(callback));
          return { unsubscribe: () => set.delete(callback) };
        },
      };
      return connection as unknown as NatsConnection;
    },
  };
  return bus;
}

/** A generator of numbers from 0 to 1 that always gives the same. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
