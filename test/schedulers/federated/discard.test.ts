import { createCipheriv } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { discard } from '../../../src/schedulers/federated/privacy/discard.ts';

describe('freeing memory that is used up', () => {
  beforeAll(async () => {
    for (let turn = 0; turn < 3; turn++) await setImmediate();
  });

  test('an array is empty afterwards, again and again', () => {
    for (let i = 0; i < 3; i++) {
      const values = new Int32Array(100).fill(i);
      discard(values);
      expect(values.length).toBe(0);
    }
  });

  test("a cipher's output, whose memory is its own", () => {
    const stream = createCipheriv('aes-256-ctr', new Uint8Array(32), new Uint8Array(16));
    const bytes = stream.update(new Uint8Array(65_536));
    expect(bytes.length).toBe(65_536);
    discard(bytes);
    expect(bytes.length).toBe(0);
  });

  test('what is a part of other memory stays, and so does shared memory', () => {
    const whole = new Uint8Array(8).fill(1);
    discard(whole.subarray(0, 4));
    expect([...whole]).toEqual(new Array(8).fill(1));
    const shared = new Float32Array(new SharedArrayBuffer(8)).fill(2);
    discard(shared);
    expect([...shared]).toEqual([2, 2]);
  });
});
