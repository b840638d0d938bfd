// Registers the tracing backend's kernels. Loaded once, by trace.ts.
import { traceKernel, traceUnsupported } from './backend.ts';
import { composedKernels } from './composites/index.ts';
import { elementwiseKernels } from './kernels/elementwise.ts';
import { imageKernels } from './kernels/image.ts';
import { indexKernels } from './kernels/index-kernels.ts';
import { layoutKernels } from './kernels/layout.ts';
import { matmulKernels } from './kernels/matmul.ts';
import { plexusKernels } from './kernels/plexus.ts';
import { reduceKernels } from './kernels/reduce.ts';
import { tf } from './tf.ts';

const recorded = [
  ...elementwiseKernels,
  ...layoutKernels,
  ...reduceKernels,
  ...matmulKernels,
  ...imageKernels,
  ...indexKernels,
  ...plexusKernels,
];
for (const kernel of recorded) traceKernel(kernel);

const known = new Set<string>([...recorded, ...composedKernels]);
// tfjs-core exports the names of all kernels as constants; what is not covered fails with a message of ours.
for (const [name, value] of Object.entries(tf))
  if (typeof value === 'string' && !known.has(value) && (value === name || value === name.replace(/V2$/, '')))
    traceUnsupported(value);
