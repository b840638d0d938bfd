import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  type LinkAddress,
  LinkedTransport,
  type LinkInbox,
  openEndpoint,
  type TcpAddress,
  type Transport,
} from '../../src/comm/index.ts';
import { SECRET } from './worlds.ts';

/** A rank in a process of its own: rank 1 of a world of two. */
export interface RankProcess {
  readonly child: ChildProcess;
  /** Where it listens (direct links); what it tells of itself (`host`: a `LinkAddress`). */
  readonly address: TcpAddress & LinkAddress;
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
 * Starts rank 1 from the build, under Node or another program. `kind` tcp, host: links to rank 0 at `peer`; nats: `peer` is
 * the server's URL.
 */
export async function startRank(
  kind: 'tcp' | 'nats' | 'host',
  options: {
    readonly peer: TcpAddress | LinkAddress | string;
    readonly program: keyof typeof programs;
    readonly listen?: TcpAddress;
    readonly command?: readonly string[];
    readonly job?: string;
  },
): Promise<RankProcess> {
  const { peer, program, listen, job = 'test', command = [process.execPath] } = options;
  const common = `{ rank: 1, world: 2, job: '${job}', deadlineMs: 30000`;
  const link =
    kind === 'host'
      ? `const endpoint = await openEndpoint({ job: '${job}', generation: 1, rank: 1, world: 2, secret: '${SECRET}',
           listen: null, nats: null, deadlineMs: 30000 });
         console.log(JSON.stringify(endpoint.address));
         let inbox;
         const [own] = await endpoint.connect([${JSON.stringify(peer)}, null], ['host', '-'], () => ({
           message: (...a) => inbox.message(...a), credit: (...a) => inbox.credit(...a),
           sendingEnded: (r) => inbox.sendingEnded(r), receivingEnded: (r) => inbox.receivingEnded(r) }));
         const transport = new LinkedTransport({ name: 'host', rank: 1, world: 2 }, { deadlineMs: 60000 }, (peer, made) => {
           if (peer === 1) return null;
           inbox = made;
           return own;
         }, { statistics: () => ({}), close: () => endpoint.close('done') });`
      : kind === 'tcp'
        ? `const endpoint = await listenTcp(${common}, secret: '${SECRET}', listen: ${JSON.stringify(listen)} });
         console.log(JSON.stringify(endpoint.address));
         const transport = await endpoint.connect([${JSON.stringify(peer)}, endpoint.address]);`
        : `const transport = await createNatsTransport(${common}, nats: { servers: '${peer}' } });
         console.log('{}');`;
  const code = `const { listenTcp, createNatsTransport, openEndpoint, LinkedTransport } = await import('${built}'); ${link} ${programs[program]}`;
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
  return { child, address: JSON.parse(line) as RankProcess['address'], ended };
}

/** Rank 0 and such a process, linked over shared memory. */
export async function hostPair(
  program: keyof typeof programs,
  options: { readonly deadlineMs?: number; readonly command?: readonly string[] } = {},
): Promise<{ readonly transport: Transport; readonly other: RankProcess }> {
  const setting = { job: 'test', generation: 1, world: 2, secret: SECRET, listen: null, nats: null };
  const endpoint = await openEndpoint({ ...setting, rank: 0, deadlineMs: 30_000 });
  const other = await startRank('host', { peer: endpoint.address, program, ...options });
  let inbox: LinkInbox | null = null;
  const target = () => inbox as LinkInbox;
  const [, link = null] = await endpoint.connect([null, other.address], ['-', 'host'], () => ({
    message: (tag, tensors) => target().message(tag, tensors),
    credit: (channel, count) => target().credit(channel, count),
    sendingEnded: (reason) => target().sendingEnded(reason),
    receivingEnded: (reason) => target().receivingEnded(reason),
  }));
  const { deadlineMs = 20_000 } = options;
  const transport = new LinkedTransport(
    { name: 'host', rank: 0, world: 2 },
    { deadlineMs },
    (peer, made) => {
      if (peer === 0) return null;
      inbox = made;
      return link;
    },
    { statistics: () => ({}), close: () => endpoint.close('done') },
  );
  return { transport, other };
}
