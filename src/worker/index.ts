export * from './entry.ts';
export { bucketSize } from './expert-runtime.ts';
export * from './in-process.ts';
export * from './non-finite.ts';
export * from './protocol.ts';
export * from './rank.ts';
export * from './serve.ts';
export * from './trace.ts';
export { CheckpointMismatch, tensorName } from './weights.ts';
