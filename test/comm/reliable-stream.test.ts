import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { StreamReceiver, type StreamSegment, StreamSender } from '../../src/comm/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

/** Both ends over a carrier that keeps order and loses what `lose` says, in virtual time. */
function connection(windowBytes: number, maxSegmentBytes: () => number, lose: () => boolean) {
  const wire: (() => void)[] = [];
  const received: number[] = [];
  const carrier = {
    up: true,
    headBytes: 5,
    tailBytes: 3,
    maxSegmentBytes,
    segment({ offset, buffer, length }: StreamSegment) {
      const copy = buffer.slice(5, 5 + length);
      expect(buffer.length).toBeGreaterThanOrEqual(5 + length + 3);
      expect(length).toBeLessThanOrEqual(maxSegmentBytes());
      if (!lose()) wire.push(() => receiver.segment(offset, copy));
    },
    probe(offset: number) {
      if (!lose()) wire.push(() => receiver.probe(offset));
    },
  };
  const sender = new StreamSender(carrier, { windowBytes, probeMs: 100 });
  const receiver = new StreamReceiver(
    {
      bytes: (bytes) => received.push(...bytes),
      confirm: (offset, lost) => {
        if (!lose()) wire.push(() => expect(sender.confirm(offset, lost)).toBe(true));
      },
    },
    { windowBytes, confirmMs: 5 },
  );
  /** Lets everything on the wire arrive. */
  const deliver = () => {
    while (wire.length > 0) wire.shift()!();
  };
  return { carrier, sender, receiver, received, deliver };
}

/** Lets the writes of this turn of the event loop leave. */
const turn = () => new Promise<void>((resolve) => process.nextTick(resolve));

describe('a reliable stream', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('delivers every byte in order whatever is lost, keeping no more than its window', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 16, max: 200 }),
        fc.integer({ min: 64, max: 400 }),
        fc.infiniteStream(fc.integer({ min: 0, max: 9 })),
        async (sizes, segmentBytes, windowBytes, luck) => {
          const { sender, receiver, received, deliver } = connection(
            windowBytes,
            () => segmentBytes,
            () => (luck.next().value as number) < 3,
          );
          const sent: number[] = [];
          let written = 0;
          for (const size of sizes) {
            const piece = Uint8Array.from({ length: size }, () => sent.push(0) & 255);
            sent.splice(sent.length - size, size, ...piece);
            Promise.resolve(sender.write([piece.subarray(0, size >> 1), piece.subarray(size >> 1)])).then(() => {
              written += 1;
            });
            expect(sender.unconfirmedBytes).toBeLessThanOrEqual(windowBytes);
          }
          for (let turn = 0; turn < 400 && (received.length < sent.length || sender.unconfirmedBytes > 0); turn++) {
            deliver();
            await vi.advanceTimersByTimeAsync(60);
            expect(sender.unconfirmedBytes).toBeLessThanOrEqual(windowBytes);
          }
          expect(received).toEqual(sent);
          await sender.drained();
          await Promise.resolve();
          expect(written).toBe(sizes.length);
          sender.end(new Error('over'));
          receiver.end();
        },
      ),
      { numRuns: 60 },
    );
  });

  it('keeps what it sends while the carrier is down, and cuts it smaller if the carrier has shrunk', async () => {
    let most = 100;
    const { carrier, sender, received, deliver } = connection(
      1000,
      () => most,
      () => false,
    );
    const bytes = Uint8Array.from({ length: 900 }, (_, i) => i & 255);
    sender.write([bytes.subarray(0, 300)]);
    await turn();
    carrier.up = false;
    sender.write([bytes.subarray(300)]);
    await turn();
    most = 40;
    carrier.up = true;
    sender.resend();
    for (let i = 0; i < 10; i++) {
      deliver();
      await vi.advanceTimersByTimeAsync(60);
    }
    expect(received).toEqual([...bytes]);
    expect(sender.resentBytes).toBeGreaterThan(0);
    expect(sender.unconfirmedBytes).toBe(0);
  });

  it('small writes of one turn leave together', async () => {
    const { carrier, sender, received, deliver } = connection(
      10_000,
      () => 1000,
      () => false,
    );
    const segments = vi.spyOn(carrier, 'segment');
    const reused = new Uint8Array(10);
    for (let i = 0; i < 150; i++) {
      expect(sender.write([reused.fill(i)])).toBeUndefined();
      await null;
    }
    await turn();
    deliver();
    expect(segments).toHaveBeenCalledTimes(2);
    expect(received).toEqual(Array.from({ length: 1500 }, (_, i) => Math.floor(i / 10)));
    sender.end(new Error('over'));
  });

  it('waits for room in the window and fails what waits when it ends', async () => {
    const { sender } = connection(
      100,
      () => 50,
      () => true,
    );
    expect(sender.write([new Uint8Array(100)])).toBeUndefined();
    const waiting = Promise.resolve(sender.write([new Uint8Array(1)])).catch((error: unknown) => error);
    sender.end(new Error('cut'));
    expect(await waiting).toMatchObject({ message: 'cut' });
    await expect(sender.write([new Uint8Array(1)])).rejects.toThrow('cut');
    await sender.drained();
  });

  it('notices a receiver that confirms what was never sent', async () => {
    const { sender } = connection(
      100,
      () => 50,
      () => false,
    );
    sender.write([new Uint8Array(60)]);
    await turn();
    expect(sender.confirm(61, false)).toBe(false);
    sender.end(new Error('over'));
  });
});
