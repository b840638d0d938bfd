export * from './build.ts';
export * from './glob.ts';
export * from './optimizer.ts';
export * from './param-rule.ts';
export * from './schedule.ts';
export * from './schema.ts';
export * from './update-function.ts';
