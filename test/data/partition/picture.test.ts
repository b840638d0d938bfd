import { describe, expect, it } from 'vitest';
import {
  angleOf,
  type Batch,
  groupOf,
  heldOut,
  iid,
  partitionOf,
  partitionPicture,
  rotationViews,
  type Split,
  turned,
} from '../../../src/data/index.ts';
import { float32, int32 } from '../../../src/tensor/index.ts';

describe('a picture of a partition', () => {
  const labels = Int32Array.from({ length: 100 }, (_, i) => i % 3);
  const partition = partitionOf([
    [0, 1, 2, 3],
    [4, 7, 10],
    [6, 9, 12, 15, 18, 21, 24, 27],
  ]);
  interface Rect {
    readonly x: number;
    readonly y: number;
    readonly width: number;
    readonly colour: string | undefined;
    readonly title: string | undefined;
  }
  const rects = (svg: string): Rect[] =>
    [
      ...svg.matchAll(
        /<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)" height="\d+" fill="(#\w+)"><title>(.*?)<\/title>/g,
      ),
    ].map(([, x, y, width, colour, title]) => ({ x: Number(x), y: Number(y), width: Number(width), colour, title }));

  it('has a bar for each client, as long as it has examples, in its classes', () => {
    const svg = partitionPicture(partition, { examples: 100, labels }, { title: 'by <hand>' });
    const found = rects(svg);
    expect(found.map(({ title }) => title)).toEqual([
      'client 0, class 0: 2',
      'client 0, class 1: 1',
      'client 0, class 2: 1',
      'client 1, class 1: 3',
      'client 2, class 0: 8',
    ]);
    const [a, b, c, d, e] = found as [Rect, Rect, Rect, Rect, Rect];
    expect(a.width * 4).toBeCloseTo(e.width, 1);
    expect(b.x).toBeCloseTo(a.x + a.width, 1);
    expect(d.colour).toBe(b.colour);
    expect(e.colour).toBe(a.colour);
    expect(new Set([a.y, d.y, e.y]).size).toBe(3);
    expect(c.y).toBe(a.y);
    expect(svg).toContain('by &lt;hand&gt;');
    expect(svg).toContain('examples of a client: 3 to 8, median 4');
  });

  it('shows at most sixty of many clients, and asks only those for their examples', () => {
    const asked: number[] = [];
    const many = {
      clients: 1_000_000,
      size: () => 1,
      examples: (client: number) => {
        asked.push(client);
        return Int32Array.of(client % 100);
      },
    };
    const svg = partitionPicture(many, { examples: 100, labels }, { title: 'many', note: () => 'turned by 90°' });
    expect(rects(svg)).toHaveLength(60);
    expect(new Set(asked).size).toBe(60);
    expect(svg).toContain('1,000,000 clients (60 of them shown, evenly spaced)');
    expect(svg).toContain('1, turned by 90°');
  });

  it('shows sizes where there are no labels, and names', () => {
    const svg = partitionPicture(
      partition,
      { examples: 100, labels: null },
      { title: 't', names: ['Ann', 'B & C', 'D'] },
    );
    expect(rects(svg).map(({ title }) => title)).toEqual([
      'client Ann, 4 examples',
      'client B &amp; C, 3 examples',
      'client D, 8 examples',
    ]);
  });
});

describe('examples held out by each client', () => {
  it('are a fraction of its own, the same every time, and are not trained on', () => {
    const partition = iid({ examples: 103, labels: null }, { clients: 10, seed: 1 });
    const { train, held } = heldOut(partition, 0.3, 5);
    for (let client = 0; client < 10; client++) {
      const [a, b] = [train.examples(client), held.examples(client)];
      expect(b).toHaveLength(3);
      expect([train.size(client), held.size(client)]).toEqual([a.length, b.length]);
      expect([...a, ...b].sort()).toEqual([...partition.examples(client)].sort());
      expect(held.examples(client)).toEqual(b);
    }
    expect(heldOut(partition, 0, 5).train.examples(3)).toEqual(partition.examples(3));
    expect(heldOut(partition, 0, 5).held.examples(3)).toHaveLength(0);
  });
});

describe('feature shift by rotation', () => {
  const side = 6;
  const images = 4;
  const pixel = (image: number, row: number, column: number) => image + row * 0.1 + column * 0.01;
  const split: Split = {
    name: 'train',
    examples: images,
    batch: (indices): Batch => ({
      inputs: [
        float32(
          Float32Array.from({ length: indices.length * side * side }, (_, i) => {
            const at = i % (side * side);
            return pixel(indices[Math.floor(i / (side * side))] as number, Math.floor(at / side), at % side);
          }),
          [indices.length, side, side, 1],
        ),
      ],
      targets: [int32(indices.slice(), [indices.length])],
    }),
  };

  it('turns quarter turns to the pixel, and fills what comes from outside with dark', () => {
    const views = rotationViews([side, side, 1], { groups: 4, degrees: 360 });
    expect([0, 1, 2, 3].map((group) => angleOf(group, { groups: 4, degrees: 360 }))).toEqual([0, 90, 180, 270]);
    expect([0, 1, 2].map((group) => angleOf(group, { groups: 3, degrees: 60 }))).toEqual([0, 30, 60]);
    const indices = Int32Array.of(2, 1);
    const read = (group: number) => turned(split, views, group, -1).batch(indices).inputs[0]?.data as Float32Array;
    expect(turned(split, views, 0, -1)).toBe(split);
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++) {
        const at = side * side + row * side + column;
        // Counter-clockwise: what was in the right column is in the top row.
        expect(read(1)[at]).toBeCloseTo(pixel(1, column, side - 1 - row), 4);
        expect(read(2)[at]).toBeCloseTo(pixel(1, side - 1 - row, side - 1 - column), 4);
      }
    const eighth = rotationViews([side, side, 1], { groups: 2, degrees: 45 });
    const corner = turned(split, eighth, 1, -1).batch(indices).inputs[0]?.data[0];
    expect(corner).toBeCloseTo(-1, 5);
    expect(turned(split, views, 3, 0).batch(indices).targets).toEqual(split.batch(indices).targets);
  });

  it('gives all groups equally many clients, drawn from the seed', () => {
    const groups = Array.from({ length: 40 }, (_, client) => groupOf(client, 4, 9));
    for (let group = 0; group < 4; group++) expect(groups.filter((of) => of === group)).toHaveLength(10);
    expect(groups).not.toEqual(Array.from({ length: 40 }, (_, client) => groupOf(client, 4, 10)));
    expect(() => rotationViews([13], { groups: 2, degrees: 90 })).toThrow(/only square grey images/);
  });
});
