export { createOnnxEngine, type OnnxEngine, type OnnxOptions } from './engine.ts';
export { graphKey } from './key.ts';
export { type LoweringOptions, type LoweringTarget, lower, loweredKernels } from './lowering/index.ts';
