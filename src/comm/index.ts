export * from './transport.ts';
export * from './errors.ts';
export * from './credits.ts';
export * from './local.ts';
export * from './tree.ts';
export * from './collectives.ts';
export * from './all-reduce.ts';
