import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { iid, openDataset, type PreparedData } from '../../../src/data/index.ts';
import { buildModel, initParams, modelParams } from '../../../src/modules/index.ts';
import { optimSchema } from '../../../src/optim/index.ts';
import {
  behaviourSchema,
  ClientStore,
  clientBehaviour,
  clientTensors,
  FitPool,
  federatedStrategies,
  type KeptVectors,
  RoundSimulation,
  readClientTensors,
  writeModel,
} from '../../../src/schedulers/federated/index.ts';
import { partOf, type VectorLayout, vectorLayout } from '../../../src/schedulers/local/index.ts';
import { openSafetensors } from '../../../src/tensor/index.ts';
import { MODEL, smallTable } from './small-federation.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-client-store-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The bits of vectors, by name: a NaN's payload and the sign of zero count. */
const bitsOf = (kept: KeptVectors) =>
  Object.fromEntries(
    Object.entries(kept).map(([name, values]) => [name, Buffer.from(Float32Array.from(values).buffer).toString('hex')]),
  );

const sizeOf = (kept: KeptVectors) => Object.values(kept).reduce((sum, { byteLength }) => sum + byteLength, 0);

/** Any bits at all, in a view that begins somewhere in its buffer. */
const vector = fc
  .tuple(fc.uint32Array({ maxLength: 6 }), fc.nat(2))
  .map(([bits, at]) => new Float32Array(Uint32Array.from([...new Array<number>(at).fill(7), ...bits]).buffer, 4 * at));
const kept = fc.dictionary(fc.constantFrom('own', 'head', 'steps'), vector, { noNullPrototype: true });
const action = fc.record({ client: fc.nat(7), set: fc.option(kept) });

describe('a store of what clients keep', () => {
  it('gives back the same bits whether clients are in its file or in memory, within its memory', () => {
    const spills = { seen: 0 };
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.nat(100), (actions, memoryBytes) => {
        const [small, large] = [new ClientStore({ memoryBytes, folder: dir }), new ClientStore()];
        const truth = new Map<number, KeptVectors>();
        let newest = 0;
        for (const { client, set } of actions) {
          if (set) {
            small.set(client, set);
            large.set(client, set);
            if (Object.keys(set).length > 0) {
              truth.set(client, set);
              newest = sizeOf(set);
            }
            // (Whoever came last stays, however large.)
            expect(small.bytesInMemory).toBeLessThanOrEqual(Math.max(memoryBytes, newest));
          }
          const found = small.get(client);
          expect(bitsOf(found)).toEqual(bitsOf(large.get(client)));
          expect(bitsOf(found)).toEqual(bitsOf(truth.get(client) ?? {}));
        }
        expect(small.clients()).toEqual([...truth.keys()].sort((a, b) => a - b));
        for (const [client, vectors] of truth) {
          expect(small.lengths(client)).toEqual(Object.entries(vectors).map(([name, { length }]) => [name, length]));
          const one = Object.fromEntries(Object.keys(vectors).map((name) => [name, small.vector(client, name)]));
          expect(bitsOf(one)).toEqual(bitsOf(vectors));
        }
        if (small.bytesInMemory < large.bytesInMemory) spills.seen += 1;
        small.close();
        large.close();
      }),
      { seed: 1, numRuns: 200 },
    );
    expect(spills.seen).toBeGreaterThan(100);
  });

  it('has a file without a name, which is gone once it is closed', () => {
    // (What is open is to be seen on Linux alone; elsewhere that the folder is empty.)
    const open = () => {
      if (!existsSync('/proc/self/fd')) return null;
      const targets = readdirSync('/proc/self/fd').flatMap((fd) => {
        try {
          return [readlinkSync(`/proc/self/fd/${fd}`)];
        } catch {
          return [];
        }
      });
      return targets.filter((target) => target.startsWith(dir)).length;
    };
    const store = new ClientStore({ memoryBytes: 8, folder: dir });
    for (let client = 0; client < 4; client++) store.set(client, { own: Float32Array.of(client, 1) });
    expect(store.bytesInMemory).toBe(8);
    expect(readdirSync(dir)).toEqual([]);
    expect(open() ?? 1).toBe(1);
    store.close();
    expect(readdirSync(dir)).toEqual([]);
    expect(open() ?? 0).toBe(0);
    expect(store.clients()).toEqual([]);
    expect(store.bytesInMemory).toBe(0);
    expect(() => store.vector(0, 'own')).toThrow(/client 0 keeps no "own"/);
  });

  it('is asked for all clients, for a checkpoint, without another one going to the file', async () => {
    const store = new ClientStore({ memoryBytes: 16, folder: dir });
    for (let client = 0; client < 12; client++)
      store.set(client, { b: Float32Array.of(client), a: new Float32Array(1) });
    const tensors = clientTensors(store);
    expect(Object.keys(tensors)).toHaveLength(24);
    expect(store.bytesInMemory).toBe(16);
    for (const [name, tensor] of Object.entries(tensors)) {
      const client = Number(name.split('/')[1]);
      expect((await tensor.load()).data).toEqual(Float32Array.of(name.endsWith('b') ? client : 0));
      expect(store.bytesInMemory).toBe(16);
    }
    store.close();
  });
});

describe('SCAFFOLD with clients in a file', () => {
  const none = new Float32Array(0);
  const state = vectorLayout([]);
  const tiny = { memoryBytes: 1 };
  let data: PreparedData;
  let layout: VectorLayout;
  let initial: Float32Array;
  let pool: FitPool;
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'plexus-client-runs-'));
    data = await smallTable(folder);
    const { model } = await buildModel(MODEL as never, openDataset(data).info);
    layout = vectorLayout(modelParams(model));
    initial = new Float32Array(layout.size);
    const drawn = initParams(modelParams(model), 1);
    for (const place of layout.places) partOf(initial, place).set(drawn[place.path]?.data as Float32Array);
    pool = await FitPool.start({
      job: {
        seed: 1,
        model: MODEL,
        optim: optimSchema.parse({ name: 'sgd', lr: 0.2, momentum: 0 }),
        data,
        engine: { kind: 'onnx', device: 'cpu', threads: 1 },
        objective: scaffold().objective?.({}) ?? { name: 'none', config: {} },
        batch: 4,
      },
      threads: 2,
    });
  });
  afterAll(async () => {
    await pool.close();
    rmSync(folder, { recursive: true, force: true });
  });

  function scaffold() {
    const strategy = federatedStrategies().get('scaffold');
    if (!strategy) throw new Error('there is no scaffold');
    return strategy;
  }

  async function trained(store: ClientStore) {
    const { examples } = openDataset(data).split('train');
    const server = scaffold().server(scaffold().config.parse({}), { params: layout, state, clients: 6, seed: 1 });
    const simulation = new RoundSimulation(
      {
        ...{ pool, server, store, seed: 1, cohort: 3, quorum: 1, deadlineSeconds: null, maxNorm: null },
        partition: iid({ examples, labels: null }, { clients: 6, seed: 1 }),
        behaviour: clientBehaviour(behaviourSchema.parse({}), 1),
        local: { epochs: 1, batch: 4 },
      },
      initial.slice(),
      none,
    );
    while (simulation.round < 8) await simulation.next();
    return simulation.params;
  }

  const all = (store: ClientStore) => store.clients().map((client) => [client, bitsOf(store.get(client))]);
  const write = (params: Float32Array, store: ClientStore) =>
    writeModel(folder, { params: layout, state }, { params, state: none }, clientTensors(store));

  it('has the same bits, in the model, what clients keep, and the checkpoint, which puts them back', async () => {
    const [spilling, roomy] = [new ClientStore({ ...tiny, folder: dir }), new ClientStore()];
    const params = await trained(spilling);
    expect(params).toEqual(await trained(roomy));
    expect(params).not.toEqual(initial);
    expect(spilling.bytesInMemory).toBeLessThan(roomy.bytesInMemory);
    expect(all(spilling)).toEqual(all(roomy));
    expect(spilling.clients().length).toBeGreaterThan(3);

    const [whole] = await write(params, roomy);
    const bytes = readFileSync(join(folder, 'server.safetensors'));
    expect(await write(params, spilling)).toEqual([whole]);
    expect(readFileSync(join(folder, 'server.safetensors'))).toEqual(bytes);

    const reader = await openSafetensors(join(folder, 'server.safetensors'));
    const back = new ClientStore({ ...tiny, folder: dir });
    await readClientTensors({ names: Object.keys(reader.specs), read: (name) => reader.read(name) }, back);
    await reader.close();
    expect(all(back)).toEqual(all(roomy));
    expect(back.bytesInMemory).toBeLessThan(roomy.bytesInMemory);
    for (const store of [spilling, roomy, back]) store.close();
  });
});
