export * from './errors.ts';
export * from './graph.ts';
export * from './engine.ts';
export * from './config.ts';
export * from './trace/index.ts';
export * from './ops/index.ts';
export { graphFlops } from './onnx/flops.ts';
export * from './passes/index.ts';
