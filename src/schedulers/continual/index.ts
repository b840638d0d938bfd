export * from './buffer.ts';
export * from './compose.ts';
export type { ModuleDrift } from './drift.ts';
export * from './metrics.ts';
export { type DriftFile, matrixPicture } from './save-matrix.ts';
export * from './scenario.ts';
export { continual } from './scheduler.ts';
export * from './strategy.ts';
export { type Entry, StreamBuilder } from './stream-builder.ts';
