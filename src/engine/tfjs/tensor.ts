import type { Tensor } from '@tensorflow/tfjs-core';
import { byteLengthOf, type Shape } from '../../tensor/index.ts';
import type { DeviceTensor } from '../engine.ts';
import type { GraphDType } from '../graph.ts';

/** A value of the tfjs engine: a handle on a tfjs tensor. */
export class TfjsTensor implements DeviceTensor {
  readonly dtype: GraphDType;
  readonly shape: Shape;
  readonly byteLength: number;
  readonly location: 'host' | 'device';
  /** Null once released. */
  tensor: Tensor | null;

  constructor(tensor: Tensor, location: 'host' | 'device') {
    this.dtype = tensor.dtype as GraphDType;
    this.shape = tensor.shape;
    this.byteLength = byteLengthOf({ dtype: this.dtype, shape: tensor.shape });
    this.location = location;
    this.tensor = tensor;
  }
}
