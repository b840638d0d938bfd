export * from './host-tensor.ts';
export * from './tree.ts';
export * from './exact-math.ts';
export * from './rng.ts';
