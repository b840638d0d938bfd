import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { TcpAddress } from '../../src/comm/index.ts';
import { SECRET } from './worlds.ts';

/** A rank in a process of its own: rank 1 of a world of two. */
export interface RankProcess {
  readonly child: ChildProcess;
  /** Where it listens (direct links). */
  readonly address: TcpAddress;
  /** Resolves with its exit code. */
  readonly ended: Promise<number | null>;
}

const built = new URL('../../dist/comm/index.js', import.meta.url).href;

/** What the other rank does: waits for ever, or sends every message back until it gets one named `end`. */
const programs = {
  idle: 'await new Promise(() => setInterval(() => {}, 1000));',
  echo: `for (let i = 0; ; i++) {
    const tensors = await transport.recv(0, 'there/x');
    await transport.send(0, 'back/x', tensors, { transfer: true });
    if (tensors.length === 0) break;
  }
  await transport.close();`,
};

/**
 * Starts rank 1 from the build, under Node or another program. `kind` tcp: links to rank 0 at `peer`; nats: `peer` is the
 * server's URL.
 */
export async function startRank(
  kind: 'tcp' | 'nats',
  options: {
    readonly peer: TcpAddress | string;
    readonly program: keyof typeof programs;
    readonly listen?: TcpAddress;
    readonly command?: readonly string[];
    readonly job?: string;
  },
): Promise<RankProcess> {
  const { peer, program, listen, job = 'test', command = [process.execPath] } = options;
  const common = `{ rank: 1, world: 2, job: '${job}', deadlineMs: 30000`;
  const link =
    kind === 'tcp'
      ? `const endpoint = await listenTcp(${common}, secret: '${SECRET}', listen: ${JSON.stringify(listen)} });
         console.log(JSON.stringify(endpoint.address));
         const transport = await endpoint.connect([${JSON.stringify(peer)}, endpoint.address]);`
      : `const transport = await createNatsTransport(${common}, nats: { servers: '${peer}' } });
         console.log('{}');`;
  const code = `const { listenTcp, createNatsTransport } = await import('${built}'); ${link} ${programs[program]}`;
  const [executable, ...args] = command as [string, ...string[]];
  const flags = args.includes('eval') ? [code] : ['--input-type=module', '-e', code];
  const child = spawn(executable, [...args, ...flags], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', (exit) => resolve(exit)));
  const line = await new Promise<string>((resolve, reject) => {
    let text = '';
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (part: string) => {
      text += part;
      if (text.includes('\n')) resolve(text);
    });
    void ended.then((exit) => reject(new Error(`the other rank ended with exit code ${exit} before it was ready`)));
  });
  return { child, address: JSON.parse(line) as TcpAddress, ended };
}
