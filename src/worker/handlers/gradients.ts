import type { DeviceTensor } from '../../engine/index.ts';
import type { HeldParam, ParamGroup } from '../param-group.ts';
import type { Cell, TensorSpace } from '../tensor-space.ts';

/** Gradients of parameters, in their order. */
export interface ParamGradients {
  readonly tensors: readonly DeviceTensor[];
  /** Gives back what was only there to stand for gradients that there are not. */
  release(): void;
}

/**
 * The gradients of parameters of a group by their indices: sums over microbatches and replicas, or zeros where no gradient came (an expert
 * without tokens).
 */
export function gradientsOf(
  space: TensorSpace,
  { gradientOf, params }: ParamGroup,
  indices: readonly number[],
  sums: readonly (Cell | null)[],
): ParamGradients {
  const zeros: Cell[] = [];
  const tensors = indices.map((index) => {
    const cell = sums[gradientOf.indexOf(index)];
    if (cell) return cell.tensor;
    const none = space.zeros((params[index] as HeldParam).tensor);
    zeros.push(none);
    return none.tensor;
  });
  return {
    tensors,
    release: () => {
      for (const cell of zeros) space.release(cell);
    },
  };
}
