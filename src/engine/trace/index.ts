export { withBackend } from './backend.ts';
export {
  type Attrs,
  graphKernels,
  type Inferred,
  isBoundary,
  type KernelDefinition,
  kernelDefinition,
} from './definition.ts';
export { type ValueAndGradients, valueAndGradients } from './gradients-of.ts';
export { currentPath, withPath } from './path.ts';
export { tf } from './tf.ts';
export { inferOutputs, signatureOf, type TraceOptions, trace, traceVjp, type VjpTrace } from './trace.ts';
