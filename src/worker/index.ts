export * from './protocol.ts';
export * from './rank.ts';
export * from './serve.ts';
export * from './in-process.ts';
export * from './entry.ts';
export * from './non-finite.ts';
export * from './trace.ts';
export { bucketSize } from './expert-runtime.ts';
export { CheckpointMismatch, tensorName } from './weights.ts';
