import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HeldBytes } from '../../src/worker/agent/copies.ts';
import { gather, rangesOf } from '../../src/worker/agent/restore.ts';
import { SharedPool } from '../../src/worker/agent/shared-pool.ts';
import type { TensorSource } from '../../src/worker/index.ts';

/** Blobs of a few agents: tensors one after another, with gaps; each float tells where it lies. */
const blobs = fc.array(
  fc.record({
    owner: fc.constantFrom('a', 'b', 'c'),
    sizes: fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.constantFrom(0, 16, 4096)), {
      minLength: 1,
      maxLength: 12,
    }),
  }),
  { minLength: 1, maxLength: 5 },
);

function layOut(given: { owner: string; sizes: [number, number][] }[]) {
  const memory = new Map<string, SharedArrayBuffer>();
  const sources: TensorSource[] = [];
  given.forEach(({ owner, sizes }, b) => {
    let offset = 0;
    for (const [i, [size, gap]] of sizes.entries()) {
      sources.push({ name: `${b}/${i}`, shape: [size], owner, blob: `blob${b}`, offset });
      offset += size * 4 + gap;
    }
    const buffer = new SharedArrayBuffer(offset);
    new Float32Array(buffer).forEach((_, i, all) => {
      all[i] = b * 100_000 + i;
    });
    memory.set(`blob${b}`, buffer);
  });
  return { memory, sources };
}

describe('gather', () => {
  it('brings every tensor from wherever it lies, and lets go of what it held', async () => {
    await fc.assert(
      fc.asyncProperty(blobs, fc.infiniteStream(fc.boolean()), async (given, coins) => {
        const { memory, sources } = layOut(given);
        const wanted = sources.filter(() => coins.next().value);
        let held = 0;
        const hold = (blob: string) => {
          held += 1;
          const view: HeldBytes = { buffer: memory.get(blob)!, release: () => void held-- };
          return { info: { generation: 0, rank: 0, step: 0, tensors: [], bytes: 0, blob }, held: view };
        };
        const gathering = gather(
          'a',
          wanted,
          { hold, pool: new SharedPool() },
          async ({ owner, blob, offset, length, into }) => {
            expect(owner).not.toBe('a');
            into.set(new Uint8Array(memory.get(blob)!, offset, length));
          },
        );
        await gathering.arrived;
        expect(gathering.tensors.map(({ name }) => name).sort()).toEqual(wanted.map(({ name }) => name).sort());
        for (const { name, shape, buffer, offset } of gathering.tensors) {
          const source = wanted.find((one) => one.name === name)!;
          const expected = new Float32Array(memory.get(source.blob)!, source.offset, shape[0]);
          expect(new Float32Array(buffer, offset, shape[0])).toEqual(expected);
        }
        gathering.release();
        expect(held).toBe(0);
      }),
      { seed: 1, numRuns: 50 },
    );
  });

  it('fetches neighbours in one range', () => {
    const source = (blob: string, offset: number): TensorSource => ({
      name: `${offset}`,
      shape: [4],
      owner: 'b',
      blob,
      offset,
    });
    const ranges = rangesOf([source('x', 64), source('x', 0), source('y', 0), source('x', 1_000_000)]);
    expect(ranges.map(({ blob, offset, end }) => [blob, offset, end])).toEqual([
      ['x', 0, 80],
      ['x', 1_000_000, 1_000_016],
      ['y', 0, 16],
    ]);
  });

  it('says which snapshot of its own is gone, and holds nothing then', async () => {
    const source = { name: 'w', shape: [1], owner: 'a', blob: 'snapshot-1-0-7', offset: 0 };
    const gathering = gather('a', [source], { hold: () => null, pool: new SharedPool() }, async () => undefined);
    await expect(gathering.arrived).rejects.toThrow('snapshot snapshot-1-0-7 of agent a is not there any more');
  });
});
