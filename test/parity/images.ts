import type { Dataset, Split } from '../../src/data/index.ts';
import { createRng, float32, int32 } from '../../src/tensor/index.ts';

const SIZE = 8;
const CLASSES = 3;

/** Small grey pictures of noise, with a bright bar whose place is the class. */
export function pictures(examples = 48): Dataset {
  const rng = createRng('pictures');
  const labels = Array.from({ length: examples }, () => rng.integer(CLASSES));
  const images = labels.map((label) =>
    Array.from({ length: SIZE * SIZE }, (_, i) => rng.normal() * 0.3 + (Math.floor(i / SIZE / 3) === label ? 1 : 0)),
  );
  const split = (name: Split['name']): Split => ({
    name,
    examples,
    batch: (indices) => ({
      inputs: [
        float32(
          [...indices].flatMap((i) => images[i] as number[]),
          [indices.length, SIZE, SIZE, 1],
        ),
      ],
      targets: [
        int32(
          [...indices].map((i) => labels[i] as number),
          [indices.length],
        ),
      ],
    }),
  });
  return {
    name: 'pictures',
    info: {
      inputs: [{ dtype: 'float32', shape: [SIZE, SIZE, 1] }],
      targets: [{ dtype: 'int32', shape: [] }],
      classes: CLASSES,
    },
    tokensPerExample: 1,
    split,
    baselines: () => ({}),
  };
}
