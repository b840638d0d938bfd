import type { Tensor } from '@tensorflow/tfjs-core';
import { tf } from '../trace/index.ts';
import { eagerKernel } from './kernel.ts';

// Passes make it; there is no public op.
eagerKernel('PlexusSquaredSum', ({ x }) => tf.sum(tf.square(x as Tensor)));
