import type { Tensor } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';
import { eagerKernel, runKernel } from './kernel.ts';

// Passes make it; there is no public op.
eagerKernel('PlexusConv2D', ({ x, filter, bias }, attrs) =>
  tf.add(runKernel('Conv2D', { x: x as Tensor, filter: filter as Tensor }, attrs), bias as Tensor),
);
