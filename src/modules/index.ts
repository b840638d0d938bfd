export * from './module.ts';
export * from './layer-function.ts';
