export * from './client-batches.ts';
export * from './client-fitter.ts';
export * from './evaluator.ts';
export * from './fit-pool.ts';
export * from './fit-task.ts';
export * from './tree-sum.ts';
