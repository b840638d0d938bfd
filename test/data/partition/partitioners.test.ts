import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dirichlet,
  dirichletDraw,
  distinct,
  drawn,
  iid,
  natural,
  type Partition,
  pathological,
  quantity,
  shards,
} from '../../../src/data/partition/index.ts';
import { createRng } from '../../../src/tensor/index.ts';

const sourceOf = (examples: number, classes: number) => ({
  examples,
  labels: Int32Array.from({ length: examples }, (_, i) => (i * 31) % classes),
});
const all = (partition: Partition) =>
  Array.from({ length: partition.clients }, (_, client) => [...partition.examples(client)]);
const sizes = (partition: Partition) =>
  Array.from({ length: partition.clients }, (_, client) => partition.size(client));
const classesOf = (partition: Partition, labels: Int32Array) =>
  all(partition).map((list) => new Set(list.map((example) => labels[example])).size);

function expectEachOnce(partition: Partition, examples: number) {
  const seen = all(partition).flat();
  expect(seen.length).toBe(examples);
  expect(new Set(seen).size).toBe(examples);
  expect(sizes(partition)).toEqual(all(partition).map((list) => list.length));
}

const some = fc.record({
  seed: fc.integer({ min: 0, max: 1000 }),
  clients: fc.integer({ min: 1, max: 12 }),
  examples: fc.integer({ min: 60, max: 200 }),
  classes: fc.integer({ min: 2, max: 6 }),
});

describe('partitioners', () => {
  it('give every example to exactly one client', () => {
    fc.assert(
      fc.property(some, ({ seed, clients, examples, classes }) => {
        const source = sourceOf(examples, classes);
        expectEachOnce(iid(source, { clients, seed }), examples);
        expectEachOnce(dirichlet(source, { clients, alpha: 0.5, min_size: 0, seed }), examples);
        expectEachOnce(shards(source, { clients, shards: 2, seed }), examples);
        expectEachOnce(quantity(source, { clients, alpha: 0.7, seed }), examples);
        if (clients >= classes) expectEachOnce(pathological(source, { clients, classes: 2, seed }), examples);
      }),
      { numRuns: 40 },
    );
  });

  it('depend on the seed and on nothing else', () => {
    const source = sourceOf(300, 5);
    const make = [
      (seed: number) => iid(source, { clients: 7, seed }),
      (seed: number) => dirichlet(source, { clients: 7, alpha: 0.3, min_size: 1, seed }),
      (seed: number) => shards(source, { clients: 7, shards: 2, seed }),
      (seed: number) => pathological(source, { clients: 7, classes: 2, seed }),
      (seed: number) => quantity(source, { clients: 7, alpha: 1, seed }),
      (seed: number) => drawn(source, { clients: 7, size: 9, seed }),
    ];
    for (const partitioner of make) {
      expect(all(partitioner(1))).toEqual(all(partitioner(1)));
      expect(all(partitioner(2))).not.toEqual(all(partitioner(1)));
    }
  });

  it('iid makes parts that differ by one example at most', () => {
    const parts = sizes(iid(sourceOf(103, 3), { clients: 10, seed: 1 }));
    expect(Math.max(...parts) - Math.min(...parts)).toBeLessThanOrEqual(1);
  });

  it('shards and pathological limit the classes of a client', () => {
    const source = sourceOf(1000, 10);
    for (const count of classesOf(shards(source, { clients: 50, shards: 2, seed: 3 }), source.labels))
      expect(count).toBeLessThanOrEqual(3);
    for (const count of classesOf(pathological(source, { clients: 50, classes: 2, seed: 3 }), source.labels))
      expect(count).toBe(2);
  });

  it('pathological gives each client the classes that are listed for it', () => {
    const source = sourceOf(1000, 4);
    const partition = pathological(source, { clients: 3, classes: [[0, 1], [1, 1], [3]], seed: 3 });
    const own = all(partition).map((examples) => [...new Set(examples.map((i) => source.labels[i]))].sort());
    expect(own).toEqual([[0, 1], [1], [3]]);
    const members = (label: number) => source.labels.filter((other) => other === label).length;
    const half = members(1) / 2;
    expect(Math.abs(partition.size(1) - half)).toBeLessThan(1);
    expect(partition.size(0) + partition.size(1)).toBe(members(0) + members(1));
    expect(partition.size(2)).toBe(members(3));
  });

  it('a smaller alpha means fewer classes a client', () => {
    const source = sourceOf(5000, 10);
    const mean = (alpha: number) => {
      const counts = classesOf(dirichlet(source, { clients: 20, alpha, min_size: 1, seed: 5 }), source.labels);
      return counts.reduce((a, b) => a + b, 0) / counts.length;
    };
    expect(mean(0.05)).toBeLessThan(mean(0.5));
    expect(mean(0.5)).toBeLessThan(mean(100));
    expect(mean(100)).toBe(10);
  });

  it('drawn makes a million clients at once and each without repetition', () => {
    const partition = drawn(sourceOf(60_000, 10), { clients: 1_000_000, size: 50, seed: 1 });
    const last = partition.examples(999_999);
    expect(new Set(last).size).toBe(50);
    expect([...partition.examples(999_999)]).toEqual([...last]);
    expect([...partition.examples(3)]).not.toEqual([...last]);
  });

  it('natural has a client for each key', () => {
    const partition = natural({ keys: ['b', 'a', 'b', 'c', 'a', 'b'] });
    expect(partition.names).toEqual(['a', 'b', 'c']);
    expect(all(partition)).toEqual([[1, 4], [0, 2, 5], [3]]);
    expect(natural({ keys: ['b', 'a', 'b', 'c'] }, { min_size: 2 }).names).toEqual(['b']);
    expect(() => natural({ keys: ['b', 'a'] }, { min_size: 2 })).toThrow(/the largest has 1: lower min_size/);
    expect(() => natural({})).toThrow(/the data has none/);
  });

  it('say what cannot be done', () => {
    const source = sourceOf(100, 4);
    const alone = { examples: 100, labels: null };
    expect(() => dirichlet(source, { clients: 50, alpha: 0.01, min_size: 2, seed: 1 })).toThrow(/raise alpha/);
    expect(() => dirichlet(source, { clients: 50, alpha: 0, min_size: 1, seed: 1 })).toThrow(/above 0/);
    expect(() => dirichlet(source, { clients: 50, alpha: 1, min_size: 3, seed: 1 })).toThrow(/need more than 100/);
    expect(() => shards(alone, { clients: 5, shards: 2, seed: 1 })).toThrow(/no class labels/);
    expect(() => pathological(source, { clients: 5, classes: 5, seed: 1 })).toThrow(/only 4/);
    expect(() => pathological(source, { clients: 5, classes: [[0], [1]], seed: 1 })).toThrow(
      /for 2 clients.*there are 5/,
    );
    expect(() => pathological(source, { clients: 2, classes: [[0], [7]], seed: 1 })).toThrow(
      /client 1 .*class 7.*0, 1, 2, 3/,
    );
    expect(() => drawn(source, { clients: 5, size: 101, seed: 1 })).toThrow(/only 100/);
    expect(() => iid(source, { clients: 5, seed: 1 }).examples(5)).toThrow('there is no client 5; there are 5');
    expect(() => iid(sourceOf(4, 2), { clients: 5, seed: 1 })).toThrow('4 examples are too few for 5 clients');
  });
});

describe('draws', () => {
  it('Dirichlet shares sum to one and have the right mean and variance', () => {
    const rng = createRng(9);
    for (const alpha of [0.05, 1, 20]) {
      const [size, draws] = [4, 4000];
      const firsts = Array.from({ length: draws }, () => {
        const shares = dirichletDraw(rng, alpha, size);
        expect(shares.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
        return shares[0] as number;
      });
      const mean = firsts.reduce((a, b) => a + b, 0) / draws;
      const variance = firsts.reduce((sum, share) => sum + (share - mean) ** 2, 0) / draws;
      // Variance of a component: (1/k)(1 - 1/k) / (k alpha + 1).
      const expected = ((1 / size) * (1 - 1 / size)) / (size * alpha + 1);
      expect(Math.abs(mean - 1 / size)).toBeLessThan(4 * Math.sqrt(expected / draws));
      expect(variance / expected).toBeGreaterThan(0.85);
      expect(variance / expected).toBeLessThan(1.15);
    }
  });

  it('distinct numbers are distinct, within bounds and about evenly spread', () => {
    const rng = createRng(4);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 2000; i++) {
      const chosen = distinct(rng, 3, 10);
      expect(new Set(chosen).size).toBe(3);
      for (const number of chosen) counts[number] = (counts[number] as number) + 1;
    }
    for (const count of counts) expect(Math.abs(count - 600)).toBeLessThan(100);
    expect(() => distinct(rng, 11, 10)).toThrow(RangeError);
  });
});
