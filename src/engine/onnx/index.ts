export { createOnnxEngine, type OnnxEngine, type OnnxOptions } from './engine.ts';
export { graphKey } from './key.ts';
export { lower, loweredKernels, type LoweringOptions, type LoweringTarget } from './lowering/index.ts';
