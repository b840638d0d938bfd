import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { noFaults } from '../../src/comm/frame.ts';
import { HostLink } from '../../src/comm/host-link.ts';
import { createSharedMemory, openSharedMemory } from '../../src/comm/host-memory.ts';
import { RingReader, RingWriter, ringBytes } from '../../src/comm/host-ring.ts';
import { CommClosed, CommTimeout, sweepSharedMemory } from '../../src/comm/index.ts';
import { ownName, SHARED_MEMORY, socketPath } from '../../src/comm/own-files.ts';
import { bytesOf, float32, type HostTensor } from '../../src/tensor/index.ts';
import { hostPair, type RankProcess } from './rank-process.ts';

describe('a ring', () => {
  it('carries any pieces in order, however small it is and whoever is slow', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.nat({ max: 90 }), { maxLength: 5 }), { minLength: 1, maxLength: 20 }),
        fc.array(fc.boolean(), { minLength: 1, maxLength: 10 }),
        async (messages, turns) => {
          const memory = new ArrayBuffer(ringBytes(64));
          const got: number[] = [];
          let bells = { reader: 0, writer: 0 };
          const writer = new RingWriter(memory, () => {
            bells = { ...bells, reader: bells.reader + 1 };
          });
          const reader = new RingReader(memory, {
            take: (bytes) => got.push(...bytes),
            ringBell: () => {
              bells = { ...bells, writer: bells.writer + 1 };
            },
            broken: (reason) => {
              throw new Error(reason);
            },
          });
          let next = 0;
          const sent: number[] = [];
          const writes = messages.map((lengths) => {
            const pieces = lengths.map((length) => Uint8Array.from({ length }, () => next++ & 255));
            for (const piece of pieces) sent.push(...piece);
            return writer.write(pieces);
          });
          // Each side runs when it is rung, in whatever order.
          for (let i = 0; bells.reader + bells.writer > 0; i++) {
            const first = turns[i % turns.length] ? 'reader' : 'writer';
            const side = bells[first] > 0 ? first : first === 'reader' ? 'writer' : 'reader';
            bells = { ...bells, [side]: bells[side] - 1 };
            if (side === 'reader') reader.pump();
            else writer.pump();
          }
          await Promise.all(writes);
          expect(got).toEqual(sent);
          expect(writer.queuedBytes).toBe(0);
        },
      ),
      { numRuns: 300, seed: 5 },
    );
  });

  it('whose memory somebody overwrites ends in an error, not in an endless loop', () => {
    const memory = new ArrayBuffer(ringBytes(64));
    let broken = '';
    const reader = new RingReader(memory, {
      take: () => undefined,
      ringBell: () => undefined,
      broken: (reason) => {
        broken = reason;
      },
    });
    new Int32Array(memory)[0] = 1000;
    reader.pump();
    expect(broken).toMatch(/overwritten/);
    reader.pump();
  });
});

describe('shared memory between processes', () => {
  const started: RankProcess[] = [];
  afterEach(() => {
    for (const { child } of started.splice(0)) child.kill('SIGKILL');
  });
  const linked = async (program: 'echo' | 'idle', deadlineMs?: number) => {
    const { transport, other } = await hostPair(program, deadlineMs === undefined ? {} : { deadlineMs });
    started.push(other);
    return { transport, other, pid: other.child.pid as number };
  };

  const files = (pid: number) => readdirSync(SHARED_MEMORY).filter((name) => name.split('-')[3] === String(pid));

  it('moves messages larger than the ring, both ways at once, and leaves nothing behind', async () => {
    const { transport, other, pid } = await linked('echo');
    expect(files(process.pid)).toEqual([]);
    const tensors = Array.from({ length: 12 }, (_, i): HostTensor => {
      const size = 1 + i ** 4 * 137;
      return float32(
        Float32Array.from({ length: size }, (_, k) => Math.fround(Math.sin(k + i))),
        [size],
      );
    });
    const sending = (async () => {
      for (const tensor of tensors) await transport.send(1, 'there/x', [tensor]);
    })();
    for (const { shape, data } of tensors) {
      const [got] = await transport.recv(1, 'back/x');
      expect(got?.shape).toEqual(shape);
      expect(Buffer.compare(bytesOf(got!.data), bytesOf(data))).toBe(0);
    }
    await sending;
    await transport.send(1, 'there/x', []);
    expect(await transport.recv(1, 'back/x')).toEqual([]);
    await transport.close();
    expect(await other.ended).toBe(0);
    expect([...files(pid), ...files(process.pid)]).toEqual([]);
  });

  it('a process that is killed is noticed at once and leaves nothing', async () => {
    const { transport, other, pid } = await linked('idle');
    const waiting = transport.recv(1, 'x/m').catch((error: unknown) => error);
    const sending = (async () => {
      for (;;) await transport.send(1, 'y/m', [float32(new Float32Array(500_000), [500_000])]);
    })().catch((error: unknown) => error);
    other.child.kill('SIGKILL');
    const since = performance.now();
    expect(await waiting).toBeInstanceOf(CommClosed);
    expect(performance.now() - since).toBeLessThan(2000);
    expect(await sending).toBeInstanceOf(CommClosed);
    await transport.close();
    expect([...files(pid), ...files(process.pid)]).toEqual([]);
  });

  it('the file of a ring goes when it is mapped, not when its maker hears of it, who may have been killed', async () => {
    const memory = await createSharedMemory(ringBytes(2 ** 21));
    const server = createServer();
    server.listen(socketPath());
    await once(server, 'listening');
    const maker = createConnection(server.address() as string);
    const [socket] = (await once(server, 'connection')) as [Socket];
    const ignore = () => undefined;
    const inbox = { message: ignore, credit: ignore, sendingEnded: ignore, receivingEnded: ignore };
    const setting = { job: 'test', generation: 1, rank: 0, peer: 1, maxDataBytes: 2 ** 20, checksum: false };
    const link = new HostLink({ ...setting, dropped: noFaults() }, inbox, ignore);
    try {
      link.hold(true);
      link.attachOut(socket, new Uint8Array(0));
      maker.write(`${memory.name}\n`);
      await once(maker, 'data');
      expect(link.canSend).toBe(true);
      expect(existsSync(join(SHARED_MEMORY, memory.name))).toBe(false);
    } finally {
      await link.close('over', 'abort');
      maker.destroy();
      server.close();
      memory.unlink();
      memory.unmap();
    }
  });

  it('a process that is frozen costs a deadline, and memory stays bounded', async () => {
    const { transport, other } = await linked('idle', 800);
    other.child.kill('SIGSTOP');
    const before = process.memoryUsage().arrayBuffers;
    const sending = (async () => {
      for (let i = 0; ; i++)
        await transport.send(1, `y/m${i}`, [float32(new Float32Array(2 ** 20), [2 ** 20])], { transfer: true });
    })();
    await expect(sending).rejects.toThrow(CommTimeout);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(80 * 2 ** 20);
    await transport.close();
  });

  it('what a killed process left is swept by the next one; files of the living stay', async () => {
    const dead = spawn(process.execPath, ['-e', '']);
    await once(dead, 'exit');
    const mine = ownName();
    const left = mine.replace(`-${process.pid}-`, `-${dead.pid}-`);
    const reused = mine.replace(/-\d+-([0-9a-f]{12})$/, '-1-$1');
    for (const name of [mine, left, reused, 'plexus-other']) writeFileSync(join(SHARED_MEMORY, name), 'x');
    try {
      expect(sweepSharedMemory()).toEqual(
        expect.arrayContaining([join(SHARED_MEMORY, left), join(SHARED_MEMORY, reused)]),
      );
      expect(existsSync(join(SHARED_MEMORY, mine))).toBe(true);
      expect(existsSync(join(SHARED_MEMORY, 'plexus-other'))).toBe(true);
    } finally {
      const { rm } = await import('node:fs/promises');
      for (const name of [mine, left, reused, 'plexus-other']) await rm(join(SHARED_MEMORY, name), { force: true });
    }
    await expect(openSharedMemory('../etc/passwd', 10)).rejects.toThrow(/no name of shared memory/);
  });
});
