import { describe, expect, it } from 'vitest';
import { createLoopbackTransports, ScratchPool, scratch } from '../../src/comm/index.ts';
import { float32 } from '../../src/tensor/index.ts';

describe('scratch memory', () => {
  it('is used again for lengths that are near', () => {
    const pool = new ScratchPool();
    const first = pool.take(10_000);
    expect(first.length).toBe(10_000);
    pool.give(first);
    const second = pool.take(10_010);
    expect(second.length).toBe(10_010);
    expect(second.buffer).toBe(first.buffer);
    expect(pool.take(10_000).buffer).not.toBe(first.buffer);
  });

  it('keeps no more than its limit, and nothing that is small or not its own kind', () => {
    const pool = new ScratchPool(100_000);
    pool.give(pool.take(20_000));
    pool.give(pool.take(30_000));
    expect(pool.heldBytes).toBeGreaterThan(0);
    expect(pool.heldBytes).toBeLessThanOrEqual(100_000);
    const other = new ScratchPool();
    other.give(other.take(10));
    other.give(new Float32Array(8192).subarray(1));
    other.give(new Float32Array(new SharedArrayBuffer(16_388)));
    other.give(new Float32Array(8192));
    expect(other.heldBytes).toBe(0);
  });

  it('that goes to several receivers is kept by the last one to give it back', () => {
    const sender = new ScratchPool();
    const array = sender.share(sender.take(10_000), 3);
    const receivers = [0, 1, 2].map(() => new ScratchPool());
    for (const pool of receivers) pool.give(array);
    expect(receivers.map((pool) => pool.heldBytes > 0)).toEqual([false, false, true]);
    expect(sender.share(sender.take(10), 3).length).toBe(10);
    const again = receivers[2]?.take(10_000) as Float32Array;
    expect(again.buffer).toBe(array.buffer);
    receivers[2]?.give(again);
    expect(receivers[2]?.heldBytes).toBeGreaterThan(0);
  });

  it('travels without a copy, room to spare and all, and is memory of the receiver then', async () => {
    const [a, b] = createLoopbackTransports(2);
    const array = scratch.take(10_001);
    array.fill(3);
    const capacity = array.buffer.byteLength;
    expect(capacity).toBeGreaterThan(array.byteLength);
    await a?.send(1, 'rows', [float32(array, [10_001])], { transfer: true });
    const [received] = (await b?.recv(0, 'rows')) ?? [];
    const data = received?.data as Float32Array;
    expect([data.length, data[10_000], data.buffer.byteLength]).toEqual([10_001, 3, capacity]);
    array[0] = 5;
    expect(data[0]).toBe(5);
    expect(b?.statistics().bytesReceived).toBe(40_004);
    const held = scratch.heldBytes;
    scratch.give(data);
    expect(scratch.heldBytes - held).toBe(capacity);
    await Promise.all([a?.close(), b?.close()]);
  });
});
