import type { Tensor } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';
import { eagerKernel, runKernel } from './kernel.ts';

// Passes make them; there is no public op.
for (const [fused, kernel] of [
  ['PlexusConv2D', 'Conv2D'],
  ['PlexusDepthwiseConv2D', 'DepthwiseConv2dNative'],
] as const)
  eagerKernel(fused, ({ x, filter, bias }, attrs) =>
    tf.add(runKernel(kernel, { x: x as Tensor, filter: filter as Tensor }, attrs), bias as Tensor),
  );
