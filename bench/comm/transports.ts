// Round trips and throughput of every transport between two processes (threads for `local`), each beside the raw thing
// that it is made of: `node bench/run.mjs comm/transports [seconds per figure, default 1] [names] [sizes in bytes]`.
//
// Alike on both sides: two processes, a connection a direction (of sockets; one connection a process of NATS); 1 MiB of
// payload in a NATS message at most (the transport's header is part of it); at most 8 MiB unconfirmed over NATS, confirmed
// every 2 MiB; every message is put together in one piece of memory at its receiver, which is used again for later ones;
// a measurement ends when the receiver says that it has all. Only the transport frames, checks (over NATS: CRC-32 at both
// ends), keeps what is unconfirmed, and gives credit by channel.
//
// Both are measured in turns, in slices of about 100 ms; figures are medians of the slices, ratios are medians of the
// ratios of neighbouring slices. CPU is that of both processes (and the server) for a megabyte: on a busy box it is
// the steadier figure.
import { isMainThread, type MessagePort, workerData } from 'node:worker_threads';
import { type LinkAddress, type LinkKind, startNatsServer, type TcpAddress } from '../../src/comm/index.ts';
import { cpuMs, type Near } from './transports/near.ts';
import {
  farDirect,
  farEndpoint,
  farLocal,
  farNats,
  nearDirect,
  nearEndpoint,
  nearLocal,
  nearNats,
  type RelayRequest,
  relayThread,
} from './transports/plexus.ts';
import { farRawNats, nearRawNats } from './transports/raw-nats.ts';
import { farRawSocket, nearRawSocket } from './transports/raw-socket.ts';

const SIZES = [4096, 65_536, 2 ** 20, 2 ** 24];
const SLICE_MS = 100;

/** What one side reached in a slice. */
interface Slice {
  readonly tripMs: number;
  readonly gbPerS: number;
  readonly cpuMsPerMb: number;
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] as number;

async function trips(near: Near, bytes: number, count: number): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    await near.echo(bytes);
    times.push(performance.now() - start);
  }
  return median(times);
}

/** Measures in turns, beginning with the one and with the other. Counts are such that a slice takes its time. */
async function measure(ends: readonly Near[], bytes: number, seconds: number, serverPid: number): Promise<Slice[][]> {
  const plans: { trips: number; messages: number }[] = [];
  for (const near of ends) {
    await trips(near, bytes, 3);
    if (!near.handsOver) await near.sink(bytes, 4);
    const start = performance.now();
    if (!near.handsOver) await near.sink(bytes, 8);
    const messageMs = (performance.now() - start) / 8;
    const tripMs = await trips(near, bytes, 3);
    plans.push({
      trips: Math.min(500, Math.max(3, Math.round(SLICE_MS / 2 / tripMs))),
      messages: Math.min(20_000, Math.max(4, Math.round(SLICE_MS / messageMs))),
    });
  }
  const slices: Slice[][] = ends.map(() => []);
  const turns = Math.max(5, Math.round((seconds * 1000) / SLICE_MS));
  for (let turn = 0; turn < turns; turn++)
    for (let k = 0; k < ends.length; k++) {
      const i = turn % 2 === 0 ? k : ends.length - 1 - k;
      const near = ends[i] as Near;
      const plan = plans[i] as { trips: number; messages: number };
      const tripMs = await trips(near, bytes, plan.trips);
      if (near.handsOver) {
        (slices[i] as Slice[]).push({ tripMs, gbPerS: Number.NaN, cpuMsPerMb: Number.NaN });
        continue;
      }
      const pids = [process.pid, near.farPid, serverPid].filter((pid) => pid !== undefined);
      const cpu = () => pids.reduce((sum, pid) => sum + cpuMs(pid), 0);
      const before = cpu();
      const start = performance.now();
      await near.sink(bytes, plan.messages);
      const ms = performance.now() - start;
      const mb = (bytes * plan.messages) / 1e6;
      (slices[i] as Slice[]).push({ tripMs, gbPerS: mb / ms, cpuMsPerMb: (cpu() - before) / mb });
    }
  return slices;
}

type Row = [name: string, make: () => Promise<Near>, raw: (() => Promise<Near>) | null];

async function main(): Promise<void> {
  const seconds = Number(process.argv[2] ?? 1);
  const wanted = process.argv.slice(3).filter((word) => !/^\d+$/.test(word));
  const sizes = process.argv.slice(3).filter((word) => /^\d+$/.test(word));
  const server = await startNatsServer();
  const rows: Row[] = [
    ['tcp', () => nearDirect('tcp'), () => nearRawSocket('tcp')],
    ['unix', () => nearDirect('unix'), () => nearRawSocket('unix')],
    ['host', () => nearEndpoint('linked', 'host'), null],
    ['relayed tcp', () => nearEndpoint('relayed', 'tcp'), () => nearRawSocket('tcp')],
    ['relayed host', () => nearEndpoint('relayed', 'host'), null],
    ['nats', () => nearNats(server.url), () => nearRawNats(server.url)],
    ['local', () => nearLocal(false), null],
    ['local, transferred', () => nearLocal(true), null],
  ];
  const show = (ms: number) => (ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(1)} ms`);
  console.log('| transport | bytes | round trip | raw | ratio | GB/s | raw | ratio | CPU ms/MB | raw |');
  console.log('| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |');
  for (const [name, make, raw] of rows) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const ends = raw ? [await make(), await raw()] : [await make()];
    for (const bytes of sizes.length > 0 ? sizes.map(Number) : SIZES) {
      const [ours, theirs] = (await measure(ends, bytes, seconds, server.process.pid ?? 0)) as [
        Slice[],
        Slice[] | undefined,
      ];
      const column = (of: keyof Slice, format: (value: number) => string) => {
        const value = median(ours.map((slice) => slice[of]));
        const own = Number.isNaN(value) ? '' : format(value);
        return theirs ? [own, format(median(theirs.map((slice) => slice[of])))] : [own, ''];
      };
      const ratio = (of: keyof Slice) =>
        theirs ? median(ours.map((slice, i) => slice[of] / (theirs[i] as Slice)[of])).toFixed(2) : '';
      const trip = [...column('tripMs', show), ratio('tripMs')];
      const rate = [...column('gbPerS', (value) => value.toFixed(2)), ratio('gbPerS')];
      const cpu = column('cpuMsPerMb', (value) => value.toFixed(2));
      console.log(`| ${[name, bytes, ...trip, ...rate, ...cpu].join(' | ')} |`);
    }
    for (const near of ends) await near.close();
  }
  await server.stop();
}

if (!isMainThread && 'relay' in workerData) await relayThread(workerData.relay as RelayRequest);
else if (!isMainThread) await farLocal((workerData as { ports: (MessagePort | null)[] }).ports);
else if (process.argv[2] === 'far') {
  const [, , , kind = '', argument = ''] = process.argv;
  const [how, by] = kind.split('-') as [string, LinkKind];
  if (kind === 'raw-socket') await farRawSocket(JSON.parse(argument) as { back: string });
  else if (kind === 'raw-nats') await farRawNats(argument);
  else if (kind === 'nats') await farNats(argument);
  else if (how === 'linked' || how === 'relayed') await farEndpoint(how, by, JSON.parse(argument) as LinkAddress);
  else await farDirect(kind, JSON.parse(argument) as TcpAddress);
} else await main();
