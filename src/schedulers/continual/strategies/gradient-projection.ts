import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { param, withoutGradient } from '../../../modules/index.ts';
import { float32 } from '../../../tensor/index.ts';
import { energyOf, outside, principalDirections } from '../principal-directions.ts';
import { freezeRest, frozenRest, projectedLayers, restOf, withProjectedInputs } from '../projected-inputs.ts';
import { registerContinual, type TaskEnd } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'gpm';

/** Rows of a layer's inputs for examples spread over a task, in double precision. */
async function inputsOf(
  end: TaskEnd,
  layers: readonly { readonly path: string; readonly inputs: number }[],
  samples: number,
): Promise<Float64Array[][]> {
  const { from, to } = end.positions(end.task);
  const count = Math.min(samples, to - from);
  const positions = Int32Array.from({ length: count }, (_, i) => from + Math.floor((i * (to - from)) / count));
  const found = await end.predict(
    positions,
    layers.map(({ path }) => `${path}.input`),
  );
  return layers.map(({ path, inputs }) => {
    const values = found[`${path}.input`] as Float32Array;
    const rows = values.length / inputs;
    // Layers that see an example several times (time steps) have more rows: as many of them are taken.
    const taken = Math.min(samples, rows);
    return Array.from({ length: taken }, (_, i) => {
      const row = Math.floor((i * rows) / taken);
      return Float64Array.from(values.subarray(row * inputs, (row + 1) * inputs));
    });
  });
}

/**
 * Adds directions to a basis until a share of the rows' energy lies in its span (Saha, Garg and Roy, 2021, equations 8 and 9: those of
 * the largest singular values of what the basis leaves).
 */
export function extendBasis(
  basis: readonly Float64Array[],
  rows: readonly Float64Array[],
  share: number,
): Float64Array[] {
  const total = rows.reduce((sum, row) => sum + energyOf(row), 0);
  const left = rows.map((row) => outside(row, basis));
  let captured = total - left.reduce((sum, row) => sum + energyOf(row), 0);
  const extended = [...basis];
  for (const { unit, energy } of principalDirections(left)) {
    if (captured >= share * total || extended.length === unit.length) break;
    // (Once more orthogonal to what was there: rounding adds up over tasks.)
    const straight = outside(unit, extended);
    const length = Math.sqrt(energyOf(straight));
    extended.push(straight.map((value) => value / length));
    captured += energy;
  }
  return extended;
}

/** I - sum of the squares of the basis: what takes the span out of a row. */
function complementOf(basis: readonly Float64Array[], size: number): Float32Array {
  const matrix = new Float64Array(size * size);
  for (let i = 0; i < size; i++) matrix[i * size + i] = 1;
  for (const unit of basis)
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++)
        matrix[i * size + j] = (matrix[i * size + j] as number) - (unit[i] as number) * (unit[j] as number);
  return Float32Array.from(matrix);
}

const identity = (_rng: unknown, [size]: readonly number[]): Float32Array => complementOf([], size as number);

/**
 * Gradient projection memory (Saha, Garg and Roy, Gradient projection memory for continual learning, 2021, algorithm 1): weights only move
 * orthogonally to the inputs that earlier tasks gave them, so that their answers stay. For plain SGD, whose steps are multiples of
 * gradients; adaptive optimizers and weight decay leave the complement.
 */
registerContinual({
  name: NAME,
  config: z.object({
    threshold: z
      .number()
      .gt(0)
      .max(1)
      .default(0.97)
      .describe("share of the energy of a task's layer inputs that is closed to later tasks, the paper's epsilon"),
    increase: z.number().min(0).default(0.003).describe('what the threshold grows by with each task, up to 1'),
    samples: z.int().min(1).default(128).describe('examples of a task whose layer inputs are looked at'),
  }),
  model: (model, _config, shape) =>
    withProjectedInputs(model, shape, (inputs) => ({
      params: { projection: param([inputs, inputs], identity, { decay: false }) },
      project: (rows, { projection }) =>
        withoutGradient(() => tf.matMul(rows as tf.Tensor2D, projection as Tensor as tf.Tensor2D)),
    })),
  rule: () => frozenRest(NAME),
  transitions: () => ({ freeze: freezeRest(NAME) }),
  afterTask: async (end, { threshold, increase, samples }) => {
    if (end.task === end.scenario.tasks.length - 1) return;
    const layers = projectedLayers(end.model);
    const share = Math.min(1, threshold + increase * end.task);
    const inputs = await inputsOf(end, layers, samples);
    const projections: Record<string, Float32Array> = {};
    for (const [i, { path, inputs: size }] of layers.entries()) {
      const held = (end.kept(`basis/${path}`)?.data ?? new Float32Array()) as Float32Array;
      const before = Array.from({ length: held.length / size }, (_, k) =>
        Float64Array.from(held.subarray(k * size, (k + 1) * size)),
      );
      const basis = extendBasis(before, inputs[i] as Float64Array[], share);
      if (basis.length === 0) continue;
      end.keep(`basis/${path}`, float32(Float32Array.from(basis.flatMap((unit) => [...unit])), [basis.length, size]));
      projections[`${path}.projection`] = complementOf(basis, size);
    }
    await end.setParameters(projections);
    await end.transition('freeze', restOf(end));
  },
});
