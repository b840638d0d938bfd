import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packRequest, unpackRequest } from '../../src/comm/blob-wire.ts';
import { packPart, unpackPart } from '../../src/comm/control-parts.ts';
import {
  ControlError,
  ControlRequester,
  ControlResponder,
  ControlTimeout,
  connectNats,
  EventReceiver,
  EventSender,
  type NatsServer,
  startNatsServer,
} from '../../src/comm/index.ts';
import { lossyBus, seeded } from './lossy-bus.ts';
import { SECRET } from './worlds.ts';

const big = (bytes: number, seed: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + seed) & 255);

describe('requests over a connection that loses two of five messages', () => {
  it('are each done once and answered, also large ones', async () => {
    const bus = lossyBus();
    const random = seeded(7);
    bus.lose = () => random() < 0.4;
    const done: number[] = [];
    const responder = new ControlResponder(bus.connect(), 'agent', async (message) => {
      const { n, bytes } = message as { n: number; bytes: Uint8Array };
      done.push(n);
      if (n % 5 === 4) throw new Error(`no ${n}`);
      await new Promise((resolve) => setTimeout(resolve, n % 3 === 0 ? 30 : 0));
      return { n, bytes: Uint8Array.from(bytes) };
    });
    const requesters = [0, 1].map(() => new ControlRequester(bus.connect(), { repeatMs: 10 }));
    const asked = Array.from({ length: 30 }, async (_, n) => {
      const bytes = big(n % 4 === 0 ? 30_000 : 10, n);
      const answer = requesters[n % 2]!.request<{ n: number; bytes: Uint8Array }>(
        'agent',
        { n, bytes },
        { deadlineMs: 20_000 },
      );
      if (n % 5 === 4) return expect(answer).rejects.toThrow(`agent: no ${n}`);
      expect((await answer).n).toBe(n);
      expect(Buffer.compare((await answer).bytes, bytes)).toBe(0);
    });
    await Promise.all(asked);
    expect(done.sort((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, n) => n));
    expect(bus.counts.lost).toBeGreaterThan(30);
    for (const requester of requesters) requester.close();
    responder.close();
  });

  it('that nobody answers fail at the deadline; those of a closed requester at once', async () => {
    const bus = lossyBus();
    const requester = new ControlRequester(bus.connect(), { repeatMs: 5, maxPending: 2 });
    await expect(requester.request('nobody', 1, { deadlineMs: 40 })).rejects.toThrow(ControlTimeout);
    await expect(requester.request('nobody', 1, { deadlineMs: 40 })).rejects.toThrow(
      /nobody did not answer within \d+ ms/,
    );
    const abort = new AbortController();
    const waiting = [
      requester.request('nobody', 1, { deadlineMs: 60_000, signal: abort.signal }),
      requester.request('nobody', 2, { deadlineMs: 60_000 }),
    ];
    await expect(requester.request('nobody', 3, { deadlineMs: 10 })).rejects.toThrow(/2 requests wait/);
    abort.abort(new Error('given up'));
    await expect(waiting[0]).rejects.toThrow('given up');
    requester.close('the run is over');
    await expect(waiting[1]).rejects.toThrow(/nobody was not heard: the run is over/);
    await expect(requester.request('nobody', 1, { deadlineMs: 40 })).rejects.toThrow(ControlError);
  });

  it('ignore what is no control message', async () => {
    const bus = lossyBus();
    const connection = bus.connect();
    const responder = new ControlResponder(connection, 'agent', (message) => message);
    for (const bytes of [[], [1, 2, 3], [0x91, 0x01], [0xc1], [0x97, 1, 2, 3, 4, 5, 6, 7]])
      connection.publish('agent', Uint8Array.from(bytes), { reply: 'agent' });
    const requester = new ControlRequester(connection, { repeatMs: 5 });
    expect(await requester.request('agent', [1, 'two', null], { deadlineMs: 5000 })).toEqual([1, 'two', null]);
    requester.close();
    responder.close();
  });
});

describe('20,000 random and mutated messages', () => {
  it('are no control messages and no requests for blobs, and never an exception', () => {
    const random = seeded(99);
    const part = packPart({ from: 'a', seq: 3, part: 0, parts: 1, floor: 2, bytes: big(40, 1) });
    const request = packRequest({ blob: 'x', offset: 5, length: 9 }, 'owner', SECRET);
    const parts = new Set<string>();
    for (let run = 0; run < 20_000; run++) {
      const good = run % 2 === 0 ? part : request;
      const bytes = good.slice(0, run % 6 < 2 ? Math.floor(random() * good.length) : good.length);
      for (let change = run % 5; change >= 0 && bytes.length > 0; change--)
        bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      const read = unpackPart(bytes);
      if (read) {
        expect(read.part).toBeLessThan(read.parts);
        parts.add(read.from.slice(0, 1));
      }
      const asked = unpackRequest(bytes, 'owner', [SECRET]);
      // Who changes a request does not know the secret.
      if (asked?.known) expect(asked.request).toEqual({ blob: 'x', offset: 5, length: 9 });
    }
    expect(parts.size).toBeGreaterThan(0);
  });
});

describe('events over a connection that loses two of five messages', () => {
  it('arrive in order and once, also large ones and with a slow receiver', async () => {
    const bus = lossyBus();
    const random = seeded(3);
    bus.lose = () => random() < 0.4;
    const seen: Record<string, number[]> = {};
    const receiver = new EventReceiver(bus.connect(), 'events', async (event) => {
      const { who, n } = event as { who: string; n: number };
      if (n % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      seen[who] = [...(seen[who] ?? []), n];
    });
    const senders = ['a', 'b'].map((who) => ({
      who,
      sender: new EventSender(bus.connect(), 'events', { repeatMs: 5 }),
    }));
    for (let n = 0; n < 100; n++)
      for (const { who, sender } of senders) sender.send({ who, n, bytes: big(n % 20 === 0 ? 50_000 : 5, n) });
    for (const { who, sender } of senders) {
      expect(await sender.drained(30_000)).toBe(true);
      expect(seen[who]).toEqual(Array.from({ length: 100 }, (_, n) => n));
      sender.close();
    }
    receiver.close();
  });

  it('go on with another receiver where the first left off', async () => {
    const bus = lossyBus();
    const seen: number[] = [];
    const sender = new EventSender(bus.connect(), 'events', { repeatMs: 5 });
    const first = new EventReceiver(bus.connect(), 'events', (event) => {
      seen.push(event as number);
      if (event === 20) first.close();
    });
    for (let n = 0; n < 50; n++) sender.send(n);
    expect(await sender.drained(100)).toBe(false);
    const second = new EventReceiver(bus.connect(), 'events', (event) => void seen.push(event as number));
    expect(await sender.drained(5000)).toBe(true);
    // (What the first took without having acknowledged it is told again.)
    expect(seen.filter((n) => n !== 20)).toEqual(Array.from({ length: 50 }, (_, n) => n).filter((n) => n !== 20));
    second.close();
    sender.close();
  });

  it('are refused with the likely reason when nobody takes them', () => {
    const bus = lossyBus();
    const sender = new EventSender(bus.connect(), 'events', { maxQueued: 3 });
    for (let n = 0; n < 3; n++) sender.send(n);
    expect(() => sender.send(3)).toThrow(
      /3 events .* for events wait to be acknowledged .* \(is there a coordinator\?\)/,
    );
    sender.close();
    expect(() => sender.send(4)).toThrow(/closed here/);
  });
});

describe('control messages over a server with max_payload 64 KB', () => {
  let server: NatsServer;
  let folder: string;
  let configFile: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'plexus-control-'));
    configFile = join(folder, 'small.conf');
    writeFileSync(configFile, 'max_payload: 65536\n');
    server = await startNatsServer({ configFile });
  });
  afterAll(async () => {
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it('survive a restart of the server: done once, in order', async () => {
    const [a, b] = await Promise.all([0, 1].map(() => connectNats({ servers: server.url })));
    let done = 0;
    const responder = new ControlResponder(b!, 'plexus.x.agent', async (message) => {
      done += 1;
      const { bytes } = message as { bytes: Uint8Array };
      if (bytes.length === 1) await restarted;
      return bytes.length;
    });
    const seen: number[] = [];
    const receiver = new EventReceiver(b!, 'plexus.x.events', (event) => void seen.push((event as { n: number }).n));
    const requester = new ControlRequester(a!);
    const sender = new EventSender(a!, 'plexus.x.events');
    try {
      const slow = requester.request('plexus.x.agent', { bytes: big(1, 1) }, { deadlineMs: 20_000 });
      expect(await requester.request('plexus.x.agent', { bytes: big(300_000, 1) }, { deadlineMs: 20_000 })).toBe(
        300_000,
      );
      sender.send({ n: 0 });
      await sender.drained(5000);
      await server.stop('kill');
      for (let n = 1; n < 50; n++) sender.send({ n, bytes: big(5000, n) });
      const during = requester.request('plexus.x.agent', { bytes: big(200_000, 1) }, { deadlineMs: 20_000 });
      server = await startNatsServer({ configFile, port: server.port });
      restart();
      expect(await slow).toBe(1);
      expect(await during).toBe(200_000);
      expect(await sender.drained(20_000)).toBe(true);
      expect(seen).toEqual(Array.from({ length: 50 }, (_, n) => n));
      expect(done).toBe(3);
    } finally {
      requester.close();
      responder.close();
      sender.close();
      receiver.close();
      await Promise.all([a!.close(), b!.close()]);
    }
  });
  let restart: () => void = () => undefined;
  const restarted = new Promise<void>((resolve) => {
    restart = resolve;
  });
});
