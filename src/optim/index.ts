export * from './optimizer.ts';
export * from './schema.ts';
export * from './schedule.ts';
export * from './build.ts';
export * from './update-function.ts';
