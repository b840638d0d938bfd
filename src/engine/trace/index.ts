export { graphKernels, kernelDefinition, type Attrs, type Inferred, type KernelDefinition } from './definition.ts';
export { currentPath, withPath } from './path.ts';
export { tf } from './tf.ts';
export { inferOutputs, signatureOf, trace, traceVjp, type TraceOptions, type VjpTrace } from './trace.ts';
