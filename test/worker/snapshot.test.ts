import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { differingReplicas } from '../../src/coordinator/replicas.ts';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { heldTensors } from '../../src/worker/held-tensors.ts';
import { createRanks, type InitialSource, runInProcess, SnapshotShelf } from '../../src/worker/index.ts';
import { SnapshotRing } from '../../src/worker/snapshot.ts';
import { type JobOptions, makeJobs } from './jobs.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

const moe: JobOptions = {
  model: { layers: 2, dim: 8, heads: 2, moe: { experts: 4, top_k: 2, every: 1, hidden: 8, bias_rate: 0.01 } },
};

/** A ring over one tensor whose value is changed by hand. */
function ringOf(values: Float32Array, slots?: number) {
  const tensor = engine.upload({ dtype: 'float32', shape: [values.length], data: values });
  const held = [{ name: 'param/w', shape: [values.length], writes: true, tensor: () => tensor, set: () => undefined }];
  const program = { rank: 0, mesh: { data: 1, pipeline: 1, expert: 1 } };
  const ring = new SnapshotRing(engine, held, program as never, slots);
  return { ring, shelf: new SnapshotShelf(ring.share) };
}

describe('a snapshot', () => {
  it('holds all tensors of a step and starts ranks of another mesh that go on to the same bits', async () => {
    const straight = await makeJobs(moe);
    const whole = await runInProcess(straight.jobs, 4, { overrides: { ...straight.overrides, engine } });
    const { jobs, overrides } = await makeJobs({ ...moe, parallel: { data: 2, pipeline: 2, expert: 2 } });
    const shelves: SnapshotShelf[] = [];
    await runInProcess(jobs, 2, {
      overrides: { ...overrides, engine },
      finally: async (ranks) => {
        for (const rank of ranks) {
          expect(await rank.snapshot(2)).toMatchObject({ step: 2 });
          shelves.push(new SnapshotShelf(rank.snapshots()));
        }
        // What is trained after the copy does not change it.
        await Promise.all(ranks.map((rank) => rank.step(2)));
      },
    });
    const views = shelves.map((shelf) => shelf.acquire(2)!);
    const initial: InitialSource = {
      step: 2,
      read: async (name, shape) => {
        const bytes = views.map((view) => view.tensor(name)).find((found) => found !== null)!;
        const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
        return { dtype: 'float32', shape, data };
      },
    };
    for (const parallel of [{}, { data: 4, expert: 2 }]) {
      const other = await makeJobs({ ...moe, parallel });
      const result = await runInProcess(other.jobs, 2, { overrides: { ...other.overrides, engine, initial } });
      expect(result.weightsSha256).toBe(whole.weightsSha256);
      expect(result.losses).toEqual(whole.losses.slice(2));
    }
    const written = shelves.flatMap(({ share }) => share.tensors.filter(({ writes }) => writes));
    expect(new Set(written.map(({ name }) => name)).size).toBe(written.length);
    for (const { share } of shelves) expect(share.tensors.every(({ offset }) => offset % 64 === 0)).toBe(true);
  });

  it('tells by its digests which ranks do not hold what others hold', async () => {
    const { jobs, overrides } = await makeJobs({ ...moe, parallel: { data: 4, pipeline: 2, expert: 2 } });
    const told: (string | null)[] = [];
    await runInProcess(jobs, 2, {
      overrides: { ...overrides, engine },
      finally: async (ranks) => {
        const compare = async (step: number): Promise<void> => {
          const held = await Promise.all(ranks.map(async (rank) => rank.digests((await rank.snapshot(step))!)));
          told.push(differingReplicas(step, held));
        };
        await compare(2);
        await Promise.all(ranks.map((rank) => rank.step(2)));
        // One bit of one weight of the last rank.
        const [[, tensor] = [null, null]] = ranks.at(-1)!.held().tensors;
        const { data } = engine.host(tensor!)!;
        new Uint8Array(data.buffer, data.byteOffset)[0]! ^= 1;
        await compare(3);
      },
    });
    expect(told).toEqual([
      null,
      expect.stringMatching(/^after step 3 rank 7 holds other bits than rank \d in param\/[^ ,]*\. Replicas/),
    ]);
  });

  it('that is read is left alone; the newest two are kept', async () => {
    const values = new Float32Array(5);
    const { ring, shelf } = ringOf(values);
    const take = async (step: number) => {
      values.fill(step);
      return ring.take(step);
    };
    for (let step = 1; step <= 4; step++) await take(step);
    expect(shelf.steps()).toEqual([4, 3, 2]);
    await take(5);
    expect(shelf.steps().slice(0, 2)).toEqual([5, 4]);
    const first = shelf.acquire(4)!;
    const second = shelf.acquire(5)!;
    for (let step = 6; step <= 12; step++) {
      expect(await take(step)).not.toBeNull();
      expect(shelf.steps().slice(0, 2)).toEqual([step, Math.max(5, step - 1)]);
    }
    expect(Array.from(new Float32Array(first.bytes.buffer, 0, 5))).toEqual([4, 4, 4, 4, 4]);
    expect(Array.from(new Float32Array(second.bytes.buffer, 0, 5))).toEqual([5, 5, 5, 5, 5]);
    const third = shelf.acquire(11)!;
    // Only the newest is left.
    expect(await take(13)).toBeNull();
    expect(shelf.steps()).toEqual([12, 11, 5, 4]);
    third.release();
    third.release();
    expect(await take(13)).not.toBeNull();
    expect(shelf.steps()).toEqual([13, 12, 5, 4]);
    first.release();
    second.release();
    await take(14);
    expect(shelf.steps()).toEqual([14, 13, 12, 5]);
  });

  it('can have memory for one only, which is written over unless it is read', async () => {
    const { ring, shelf } = ringOf(new Float32Array(5), 1);
    await ring.take(1);
    expect(await ring.take(2)).toEqual({ step: 2, slot: 0 });
    const view = shelf.acquire(2)!;
    expect(await ring.take(3)).toBeNull();
    view.release();
    expect(await ring.take(3)).not.toBeNull();
    expect(shelf.steps()).toEqual([3]);
  });

  it('of a step that is there is not copied again', async () => {
    const values = new Float32Array(3).fill(1);
    const { ring, shelf } = ringOf(values);
    const taken = await ring.take(7);
    values.fill(2);
    expect(await ring.take(7)).toEqual(taken);
    expect(shelf.steps()).toEqual([7]);
    expect(shelf.acquire(6)).toBeNull();
    expect(new Float32Array(shelf.acquire(7)!.bytes.buffer)[0]).toBe(1);
  });

  it('is never seen half written by another thread', async () => {
    const values = new Float32Array(100_000);
    const { ring } = ringOf(values);
    values.fill(1);
    await ring.take(1);
    const reader = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       const run = async () => {
         const { SnapshotShelf } = await import(workerData.entry);
         const shelf = new SnapshotShelf(workerData.share);
         let seen = 0, torn = 0, last = 0;
         parentPort.postMessage('begun');
         while (last < 300) {
           const [step] = shelf.steps();
           const view = shelf.acquire(step);
           if (!view) continue;
           const data = new Float32Array(view.bytes.buffer, 0, 100000);
           for (let i = 0; i < data.length; i++) if (data[i] !== step) { torn++; break; }
           view.release();
           seen++;
           last = step;
         }
         parentPort.postMessage({ seen, torn });
       };
       run();`,
      {
        eval: true,
        workerData: { share: ring.share, entry: new URL('../../dist/worker/index.js', import.meta.url).href },
      },
    );
    const next = () => new Promise<unknown>((resolve, reject) => reader.once('message', resolve).once('error', reject));
    expect(await next()).toBe('begun');
    const result = next();
    for (let step = 2; step <= 300; step++) {
      values.fill(step);
      await ring.take(step);
      if (step % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    const { seen, torn } = (await result) as { seen: number; torn: number };
    expect(torn).toBe(0);
    expect(seen).toBeGreaterThan(0);
    await reader.terminate();
  });

  it('is of what a rank holds: slots that another replica keeps are not in it', async () => {
    const { jobs, overrides } = await makeJobs({});
    const { ranks, dispose } = await createRanks(jobs, { ...overrides, engine });
    try {
      const names = ranks[0]!.snapshots().tensors.map(({ name }) => name);
      const paths = ranks[0]!.ready.params;
      expect(names.filter((name) => name.startsWith('optim/')).length).toBe(2 * paths.length);
    } finally {
      await dispose();
    }
    const tensor = {} as never;
    const param = { path: 'w', spec: { shape: [2] }, slotNames: ['m'], tensor, slots: [] };
    const mesh = { data: 2, pipeline: 1, expert: 1 };
    const held = (keepsSlots: boolean, rank: number) =>
      heldTensors([{ expert: null, params: [{ ...param, keepsSlots }], state: [] }] as never, { rank, mesh } as never);
    expect(held(false, 0).map(({ name, writes }) => [name, writes])).toEqual([['param/w', true]]);
    expect(held(true, 1).map(({ name, writes }) => [name, writes])).toEqual([
      ['param/w', false],
      ['optim/m/w', true],
    ]);
  });
});
