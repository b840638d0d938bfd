export * from './graph.ts';
export * from './engine.ts';
