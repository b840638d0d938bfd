export * from './errors.ts';
export * from './mesh.ts';
export * from './program.ts';
export * from './summary.ts';
export * from './schema.ts';
export * from './check-mesh.ts';
export * from './batch.ts';
export * from './balance.ts';
