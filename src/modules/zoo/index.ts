export * from './build.ts';
export * from './bundle.ts';
export * from './entry.ts';
export * from './registry.ts';
export * from './tfjs-layers.ts';
