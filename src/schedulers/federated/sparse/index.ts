export * from './densities.ts';
export * from './masks.ts';
export * from './weight-flops.ts';
