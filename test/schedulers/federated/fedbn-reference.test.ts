import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PreparedData } from '../../../src/data/index.ts';
import { close } from './plain-vectors.ts';
import {
  CLASSES,
  FEATURES,
  gradient,
  HIDDEN,
  LR,
  mean,
  type Reference,
  smallFederation,
  smallTable,
  softmax,
} from './small-federation.ts';

// FedBN (Li et al. 2021, algorithm 1) beside batch normalisation written down with plain numbers: forward passes by hand, gradients by
// central differences, running statistics as PyTorch keeps them.

const MODEL_FILE = `
import { nn } from 'plexus/modules';
export const model = () => ({
  layers: [
    {
      name: 'hidden.0',
      module: nn.sequential({
        linear: nn.linear(${FEATURES}, ${HIDDEN}),
        norm: nn.batchNorm(${HIDDEN}),
        tanh: nn.activation('tanh'),
      }),
    },
    { name: 'head', module: nn.sequential({ linear: nn.linear(${HIDDEN}, ${CLASSES}) }) },
  ],
  loss: nn.crossEntropy(),
});
`;
const EPS = 1e-5;
const MOMENTUM = 0.1;
const COHORTS = [
  [0, 1],
  [1, 2],
  [0, 2],
  [0, 1],
];
// (No batch of a single example, which has no variance.)
const SIZES = [8, 6, 10];

let dir: string;
let data: PreparedData;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-fedbn-'));
  data = await smallTable(dir);
  writeFileSync(join(dir, 'normalised.ts'), MODEL_FILE);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

type Vector = Float64Array;
/** Mean and variance of each hidden unit. */
interface Statistics {
  readonly means: readonly number[];
  readonly variances: readonly number[];
}
const INITIAL: Statistics = { means: new Array(HIDDEN).fill(0), variances: new Array(HIDDEN).fill(1) };
const units = Array.from({ length: HIDDEN }, (_, j) => j);

/** The network by hand. */
function networkOf({ layout, x, y }: Reference) {
  const offset = (path: string) => layout.places.find((place) => place.path === path)?.offset as number;
  const [gain, shift] = [offset('hidden.0.norm.gain'), offset('hidden.0.norm.bias')];
  const linear = (w: Vector, path: string, values: ArrayLike<number>, width: number) =>
    Array.from({ length: width }, (_, j) =>
      Array.from(values).reduce(
        (sum, value, i) => sum + value * (w[offset(`${path}.weight`) + i * width + j] as number),
        w[offset(`${path}.bias`) + j] as number,
      ),
    );
  const before = (w: Vector, examples: Int32Array) =>
    Array.from(examples, (example) => linear(w, 'hidden.0.linear', x(example), HIDDEN));
  /** Of a batch: variances as they divide, by the number of examples. */
  const statistics = (w: Vector, batch: Int32Array): Statistics => {
    const rows = before(w, batch);
    const means = units.map((j) => mean(rows.map((row) => row[j] as number)));
    const variances = units.map((j) => mean(rows.map((row) => ((row[j] as number) - (means[j] as number)) ** 2)));
    return { means, variances };
  };
  const loss = (w: Vector, examples: Int32Array, { means, variances }: Statistics) =>
    mean(
      before(w, examples).map((row, k) => {
        const hidden = row.map((value, j) => {
          const centred = (value - (means[j] as number)) / Math.sqrt((variances[j] as number) + EPS);
          return Math.tanh((w[gain + j] as number) * centred + (w[shift + j] as number));
        });
        return -Math.log(softmax(linear(w, 'head.linear', hidden, CLASSES))[y(examples[k] as number)] as number);
      }),
    );
  const local = Array.from({ length: layout.size }, (_, i) =>
    [gain, shift].some((first) => i >= first && i < first + HIDDEN),
  );
  return { statistics, loss, local };
}

/** Running statistics after a batch: variances are unbiased there. */
function moved(running: Statistics, batch: Statistics, examples: number): Statistics {
  const towards = (from: readonly number[], to: readonly number[], scale: number) =>
    from.map((value, j) => (1 - MOMENTUM) * value + MOMENTUM * scale * (to[j] as number));
  return {
    means: towards(running.means, batch.means, 1),
    variances: towards(running.variances, batch.variances, examples / (examples - 1)),
  };
}

describe('fedbn', () => {
  it('leaves scale, shift and statistics of batch normalisation with the client, and averages the rest', async () => {
    const model = { file: join(dir, 'normalised.ts'), args: {} };
    const { reference, examples, run } = await smallFederation(data, 'fedbn', {}, { model, sizes: SIZES });
    const { statistics, loss, local } = networkOf(reference);
    let w = reference.initial;
    const own = new Map<number, { readonly params: Vector; readonly running: Statistics }>();
    const modelOf = (k: number) => {
      const kept = own.get(k) ?? { params: reference.initial, running: INITIAL };
      return { params: w.map((value, i) => (local[i] ? (kept.params[i] as number) : value)), running: kept.running };
    };
    for (const [round, cohort] of COHORTS.entries()) {
      const ends = cohort.map((k) => {
        let { params, running } = modelOf(k);
        for (const batch of reference.batches(round, k)) {
          const slope = gradient((at) => loss(at, batch, statistics(at, batch)), params);
          running = moved(running, statistics(params, batch), batch.length);
          params = params.map((value, i) => value - LR * (slope[i] as number));
        }
        own.set(k, { params, running });
        return { params, weight: SIZES[k] as number };
      });
      const total = ends.reduce((sum, { weight }) => sum + weight, 0);
      w = w.map((value, i) =>
        local[i] ? value : ends.reduce((sum, { params, weight }) => sum + (weight / total) * (params[i] as number), 0),
      );
    }
    const found = await run(COHORTS);
    close(found.params, w);
    // What the server has of normalisation is what it began with.
    close(found.state, [...INITIAL.means, ...INITIAL.variances]);
    const losses = examples.map((list, k) => loss(modelOf(k).params, list, modelOf(k).running));
    close(found.own, losses);
    // (It matters whose statistics, and whose scale and shift, these are.)
    const apart = (other: (k: number, list: Int32Array) => number) =>
      Math.max(...examples.map((list, k) => Math.abs(other(k, list) - (losses[k] as number))));
    expect(apart((k, list) => loss(modelOf(k).params, list, INITIAL))).toBeGreaterThan(1e-3);
    expect(apart((k, list) => loss(w, list, modelOf(k).running))).toBeGreaterThan(1e-3);
  });
});
