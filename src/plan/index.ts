export * from './mesh.ts';
export * from './program.ts';
export * from './summary.ts';
