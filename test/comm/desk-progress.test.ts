import { describe, expect, it } from 'vitest';
import { DEPTH, DeskProgress, progressWords } from '../../src/comm/desk-progress.ts';
import { ADD, sumArrays } from '../../src/comm/index.ts';
import { planSum, sumInPlace } from '../../src/comm/room-sum.ts';
import { plainKernels } from '../../src/comm/sum-kernel.ts';

function progressOf(members: number) {
  const words = new Int32Array(new SharedArrayBuffer(4 * progressWords(members)));
  const steps: boolean[] = [];
  return { progress: new DeskProgress(words, members, members, (far) => steps.push(far)), steps };
}

describe('how far the blocks of a reduction are', () => {
  it('slices are claimed once each, block by block, and only of blocks that all have put', () => {
    const { progress } = progressOf(2);
    progress.put(0, 0);
    expect(progress.claim(0)).toBeNull();
    progress.put(1, 0);
    expect([progress.claim(1), progress.claim(1), progress.claim(0)]).toEqual([0, 1, null]);
    progress.put(1, 1);
    expect(progress.claim(1)).toBeNull();
    progress.put(0, 1);
    expect(progress.claim(0)).toBe(2);
  });

  it('a place is free again when all have taken what was there, whatever else is on the desk', () => {
    const { progress } = progressOf(2);
    for (let block = 0; block < 3 * DEPTH; block++) {
      expect(progress.isFree(block)).toBe(true);
      for (const member of [0, 1]) progress.put(member, block);
      expect(progress.isFree(block + DEPTH)).toBe(false);
      for (const member of [0, 1]) {
        expect(progress.isSummed(block)).toBe(false);
        expect(progress.claim(member)).toBe(2 * block + member);
        progress.summed(block);
      }
      expect(progress.isSummed(block)).toBe(true);
      progress.taken(0, block);
      expect(progress.isFree(block + DEPTH)).toBe(false);
      progress.taken(1, block);
    }
  });

  it('rings far when others may go on, and names who keeps a member waiting', () => {
    const { progress, steps } = progressOf(3);
    progress.put(0, 0);
    progress.put(2, 0);
    expect(progress.late(0, 1, 0)).toEqual([1, 'put']);
    progress.put(1, 0);
    expect(steps).toEqual([false, false, true]);
    for (const member of [2, 1, 0]) progress.claim(member);
    for (let i = 0; i < 2; i++) progress.summed(0);
    expect(progress.late(0, 1, 0)[1]).toBe('summed');
    expect(progress.late(1, 1, 0)[0]).not.toBe(1);
    progress.summed(0);
    progress.taken(1, 0);
    progress.taken(0, 0);
    expect(progress.late(1, 1, 1)).toEqual([2, 'taken']);
    progress.taken(2, 0);
    expect(steps.slice(3)).toEqual([false, false, true, false, false, true]);
  });
});

describe('sums where the numbers lie', () => {
  const orders = [
    [0, 1, ADD],
    [0, 1, ADD, 2, ADD],
    [0, 1, ADD, 2, 3, ADD, ADD],
    [0, 1, 2, ADD, ADD, 3, 4, ADD, ADD],
    [0, 1, ADD, 2, 3, ADD, ADD, 4, 5, ADD, 6, 7, ADD, ADD, ADD],
    [0, 1, 2, 3, 4, 5, ADD, ADD, ADD, ADD, ADD],
  ];
  it.each(orders.map((order) => ({ order })))('have the bits of additions one by one: $order', ({ order }) => {
    // Longer than a stretch with intermediate sums, and no multiple of what a turn of the loop adds.
    const length = 2500;
    const count = Math.max(...order) + 1;
    const laps = 65_536 / 4;
    const room = new Float32Array(count * length + laps);
    for (let i = 0; i < count * length; i++) room[i] = Math.sin(i) * 10 ** (Math.floor(i / length) % 5);
    const operands = Array.from({ length: count }, (_, i) => room.slice(i * length, (i + 1) * length));
    const expected = new Float32Array(length);
    sumArrays([expected], operands, order);
    const target = 4 * length * (count - 1);
    const places = { lapAt: 4 * count * length, lapBytes: 4 * laps };
    sumInPlace(plainKernels(room), planSum(order), (operand) => 4 * length * operand, target, length, places);
    expect(room.slice(target / 4, target / 4 + length)).toEqual(expected);
    for (let i = 0; i < count - 1; i++) expect(room.slice(i * length, (i + 1) * length)).toEqual(operands[i]);
  });
});
