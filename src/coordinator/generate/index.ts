export * from './predictor.ts';
export * from './sampling.ts';
export * from './text.ts';
