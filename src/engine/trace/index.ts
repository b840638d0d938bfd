export { type Attrs, graphKernels, isBoundary, type Inferred, type KernelDefinition, kernelDefinition } from './definition.ts';
export { currentPath, withPath } from './path.ts';
export { tf } from './tf.ts';
export { inferOutputs, signatureOf, type TraceOptions, trace, traceVjp, type VjpTrace } from './trace.ts';
