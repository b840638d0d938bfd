import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { float32, type HostTensor } from '../../src/tensor/index.ts';
import { freePorts, type NatsServers, startServers } from './nats-servers.ts';
import { relayedWorld } from './worlds.ts';

let nats: NatsServers;
let monitor: string;
beforeAll(async () => {
  const [port, web] = (await freePorts(2)) as [number, number];
  monitor = `http://127.0.0.1:${web}`;
  // (Little patience, so that a receiver that is buried under messages would be thrown out.)
  const text = `http: "127.0.0.1:${web}"\nmax_pending: 4194304\nwrite_deadline: "1s"\n`;
  nats = await startServers([{ port, text }], [`nats://127.0.0.1:${port}`]);
});
afterAll(() => nats?.stop());

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
/** Bytes of buffers that somebody still holds. */
const held = () => {
  collect();
  return process.memoryUsage().arrayBuffers;
};

const ELEMENTS = 2 ** 18;
const CREDITS = 6;
const message = (i: number): HostTensor => float32(new Float32Array(ELEMENTS).fill(i), [ELEMENTS]);

describe('a receiver ten times slower than its sender', () => {
  for (const kind of ['nats', 'tcp', 'host'] as const)
    it(`over ${kind} slows it down: nothing is lost, nothing piles up`, async () => {
      const url = nats.urls[0]!;
      const [a, b] = await relayedWorld(kind, 2, { credits: CREDITS, ...(kind === 'nats' ? { url } : {}) });
      const before = held();
      let sent = 0;
      const kept: number[] = [];
      const count = 60;
      const sending = (async () => {
        for (; sent < count; sent++) await a!.send(1, `act/m${sent}`, [message(sent)], { transfer: true });
      })();
      for (let i = 0; i < count; i++) {
        const [got] = await b!.recv(0, `act/m${i}`);
        expect([got?.data.length, got?.data[0], got?.data[ELEMENTS - 1]]).toEqual([ELEMENTS, i, i]);
        expect(sent - i).toBeLessThanOrEqual(CREDITS + 1);
        if (i % 10 === 5) kept.push(held() - before);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await sending;
      // Messages under way at each hop, a window of NATS, and the rings; not the 60 MB that were sent.
      // (The least of them: the collector does not see to everything each time.)
      expect(Math.min(...kept.slice(-3))).toBeLessThan(25 * 2 ** 20);
      if (kind === 'nats') {
        const { slow_consumers } = (await (await fetch(`${monitor}/varz`)).json()) as { slow_consumers: number };
        expect(slow_consumers).toBe(0);
      }
      await Promise.all([a!.close(), b!.close()]);
    });
});
