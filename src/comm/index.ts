export * from './all-reduce.ts';
export * from './collectives.ts';
export * from './credits.ts';
export * from './errors.ts';
export * from './local.ts';
export * from './scratch.ts';
export * from './transport.ts';
export * from './tree.ts';
