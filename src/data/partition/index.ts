export * from './dirichlet-draw.ts';
export * from './feature-shift.ts';
export * from './held-out.ts';
export * from './partition.ts';
export * from './partitioners.ts';
export * from './picture.ts';
