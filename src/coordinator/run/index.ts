export { writeFileAtomically } from './atomic.ts';
export * from './checkpoint.ts';
export * from './errors.ts';
export * from './folder.ts';
export * from './lock.ts';
export * from './metrics-log.ts';
export * from './model-file.ts';
export * from './store/index.ts';
export * from './summary.ts';
