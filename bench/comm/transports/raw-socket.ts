// Sockets without anything on top: `onread` into the message's own place in one buffer, writes of whole messages.
import { once } from 'node:events';
import { createServer, connect as dial, type Socket } from 'node:net';
import { andThenEnd, far, type Near, socketPath } from './near.ts';

const LARGEST = 2 ** 24;

/** As with the transport, each side dials what it receives on. Commands are 16 bytes: size, count, whether to echo. */
export async function nearRawSocket(kind: 'tcp' | 'unix'): Promise<Near> {
  const server = createServer({ noDelay: true });
  await new Promise<void>((resolve) => {
    if (kind === 'unix') server.listen(socketPath(2), resolve);
    else server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const where =
    typeof address === 'object' && address ? { host: '127.0.0.1', port: address.port } : { path: address as string };
  const arriving = once(server, 'connection');
  const { child, line } = await far('raw-socket', JSON.stringify({ ...where, back: socketPath(3) }));
  const [out] = (await arriving) as [Socket];
  let expected = 1;
  let left = 0;
  let done: () => void = () => undefined;
  const into = Buffer.alloc(LARGEST);
  const inward = dial({
    ...(JSON.parse(line) as { port: number }),
    onread: {
      buffer: () => into.subarray(left > 0 ? expected - left : 0, expected),
      callback: (count) => {
        left -= count;
        if (left === 0) done();
        return true;
      },
    },
  });
  await once(inward, 'connect');
  const data = Buffer.alloc(LARGEST, 1);
  const command = (bytes: number, count: number, echo: boolean) => {
    const header = Buffer.alloc(16);
    header.writeUInt32LE(bytes, 0);
    header.writeUInt32LE(count, 4);
    header.writeUInt32LE(echo ? 1 : 0, 8);
    out.write(header);
    left = expected = echo ? bytes : 1;
    return new Promise<void>((resolve) => {
      done = resolve;
    });
  };
  const near: Near = {
    echo: async (bytes) => {
      const back = command(bytes, 1, true);
      out.write(data.subarray(0, bytes));
      await back;
    },
    sink: async (bytes, count) => {
      const back = command(bytes, count, false);
      for (let i = 0; i < count; i++)
        await new Promise<void>((resolve) => out.write(data.subarray(0, bytes), () => resolve()));
      await back;
    },
    close: async () => {
      out.end();
      inward.end();
      server.close();
    },
  };
  return andThenEnd(near, child);
}

export async function farRawSocket(where: { readonly path?: string; readonly back: string }): Promise<void> {
  const server = createServer({ noDelay: true });
  await new Promise<void>((resolve) => {
    if (where.path) server.listen(where.back, resolve);
    else server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  console.log(JSON.stringify(typeof address === 'object' && address ? { port: address.port } : { path: where.back }));
  const arriving = once(server, 'connection');
  const header = Buffer.alloc(16);
  const into = Buffer.alloc(LARGEST);
  let headerLeft = 16;
  let size = 0;
  /** Of all messages, and of the one that is arriving. */
  let left = 0;
  let place = 0;
  let out: Socket | null = null;
  const inward = dial({
    ...(where as { path: string }),
    onread: {
      buffer: () => (headerLeft > 0 ? header.subarray(16 - headerLeft) : into.subarray(place, size)),
      callback: (count) => {
        if (headerLeft > 0) {
          headerLeft -= count;
          if (headerLeft > 0) return true;
          size = header.readUInt32LE(0);
          left = size * header.readUInt32LE(4);
          place = 0;
          return true;
        }
        left -= count;
        place = (place + count) % size;
        if (left > 0) return true;
        headerLeft = 16;
        out?.write(header.readUInt32LE(8) ? into.subarray(0, size) : Buffer.alloc(1));
        return true;
      },
    },
  });
  [out] = (await arriving) as [Socket];
  await once(inward, 'close');
  out.destroy();
  server.close();
}
