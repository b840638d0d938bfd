export * from './dirichlet-draw.ts';
export * from './partition.ts';
export * from './partitioners.ts';
