export * from './errors.ts';
export * from './graph.ts';
export * from './engine.ts';
