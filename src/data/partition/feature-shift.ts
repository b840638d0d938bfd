import { createRng } from '../../tensor/index.ts';
import type { Batch, PreparedData, Split } from '../dataset.ts';
import type { PreparedImages } from '../image-dataset.ts';
import { applyView, type PreparedViews, rotations } from '../stream/index.ts';

/** Clients whose images are turned: `groups` angles, evenly over `degrees`, the first of them 0. */
export interface RotationShift {
  readonly groups: number;
  readonly degrees: number;
}

/** The group of a client, from 0: every run of as many clients as there are groups has one of each, in a drawn order. */
export function groupOf(client: number, groups: number, seed: number): number {
  const run = Math.floor(client / groups);
  const offset = createRng(seed).fork('feature shift', run).integer(groups);
  return (client + offset) % groups;
}

/** Angle of a group, in degrees counter-clockwise: of a whole turn the last group comes before the first again. */
export function angleOf(group: number, { groups, degrees }: RotationShift): number {
  const steps = degrees === 360 ? groups : Math.max(1, groups - 1);
  return (group * degrees) / steps;
}

/** The angles of all groups as views of square images. @throws RangeError for inputs that are no such images */
export function rotationViews(shape: readonly number[], shift: RotationShift): PreparedViews {
  const [height, width, channels] = shape;
  if (shape.length !== 3 || height !== width || channels !== 1)
    throw new RangeError(
      `only square grey images can be turned; the examples of this dataset have the shape [${shape.join(', ')}]`,
    );
  return rotations(
    height as number,
    Array.from({ length: shift.groups }, (_, group) => angleOf(group, shift)),
  );
}

/** A split whose images are seen turned. `dark`: the value of a pixel that nothing is drawn on. */
export function turned(split: Split, views: PreparedViews, group: number, dark: number): Split {
  // Without a turn the pixels keep their bits.
  if (group === 0) return split;
  return {
    ...split,
    batch: (indices): Batch => {
      const batch = split.batch(indices);
      const input = batch.inputs[0]?.data as Float32Array;
      for (let i = 0; i < input.length; i++) input[i] = (input[i] as number) - dark;
      applyView(views, input, new Int32Array(indices.length).fill(group));
      for (let i = 0; i < input.length; i++) input[i] = (input[i] as number) + dark;
      return batch;
    },
  };
}

/** The value of a pixel that nothing is drawn on. */
export function darkOf(data: PreparedData): number {
  if (data.kind !== 'images') return 0;
  const { mean, std } = data as PreparedImages;
  return Math.fround((0 - mean) / std);
}
