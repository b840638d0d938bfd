// The plain client: publish and subscribe in chunks, the receiver copies them together and grants credit.
import { connect } from '@nats-io/transport-node';
import { andThenEnd, CHUNK, far, type Near, WINDOW } from './near.ts';

const LARGEST = 2 ** 24;

export async function nearRawNats(url: string): Promise<Near> {
  const { child } = await far('raw-nats', url);
  const connection = await connect({ servers: url });
  const data = new Uint8Array(LARGEST).fill(1);
  let underWay = 0;
  let wake: () => void = () => undefined;
  connection.subscribe('raw.credit', {
    callback: (_error, message) => {
      underWay -= Number(message.string());
      wake();
    },
  });
  let left = 0;
  let done: () => void = () => undefined;
  const into = new Uint8Array(LARGEST);
  connection.subscribe('raw.back', {
    callback: (_error, message) => {
      into.set(message.data, Math.max(0, left - message.data.length));
      left -= message.data.length;
      if (left <= 0) done();
    },
  });
  const send = async (subject: string, bytes: number) => {
    for (let at = 0; at < bytes; at += CHUNK) {
      const length = Math.min(CHUNK, bytes - at);
      while (underWay > 0 && underWay + length > WINDOW)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      underWay += length;
      connection.publish(subject, data.subarray(at, at + length), { reply: String(bytes) });
    }
  };
  const expecting = (bytes: number) => {
    left = bytes;
    return new Promise<void>((resolve) => {
      done = resolve;
    });
  };
  await connection.flush();
  const near: Near = {
    echo: async (bytes) => {
      const back = expecting(bytes);
      await send('raw.echo', bytes);
      await back;
    },
    sink: async (bytes, count) => {
      for (let i = 0; i < count; i++) await send('raw.sink', bytes);
      const back = expecting(1);
      connection.publish('raw.ask', '');
      await back;
    },
    close: async () => {
      connection.publish('raw.end', '');
      await connection.flush();
      await connection.close();
    },
  };
  return andThenEnd(near, child);
}

export async function farRawNats(url: string): Promise<void> {
  const connection = await connect({ servers: url });
  const tensor = new Uint8Array(LARGEST);
  let at = 0;
  let owed = 0;
  const take = (data: Uint8Array, total: number) => {
    tensor.set(data, at);
    at = (at + data.length) % total;
    owed += data.length;
    if (owed < WINDOW / 4) return;
    connection.publish('raw.credit', String(owed));
    owed = 0;
  };
  connection.subscribe('raw.sink', { callback: (_error, message) => take(message.data, Number(message.reply)) });
  connection.subscribe('raw.echo', {
    callback: (_error, message) => {
      const total = Number(message.reply);
      take(message.data, total);
      if (at > 0) return;
      for (let from = 0; from < total; from += CHUNK)
        connection.publish('raw.back', tensor.subarray(from, Math.min(total, from + CHUNK)));
    },
  });
  connection.subscribe('raw.ask', { callback: () => connection.publish('raw.back', '.') });
  const ended = new Promise<void>((resolve) => {
    connection.subscribe('raw.end', { callback: () => resolve() });
  });
  await connection.flush();
  console.log('{}');
  await ended;
  await connection.close();
}
