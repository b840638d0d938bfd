export * from './exact-math.ts';
export * from './half.ts';
export * from './hash.ts';
export * from './host-tensor.ts';
export * from './rng.ts';
export * from './safetensors.ts';
export * from './safetensors-file.ts';
export * from './tree.ts';
