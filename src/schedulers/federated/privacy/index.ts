export * from './accountant.ts';
export * from './central-dp.ts';
export * from './log-erfc.ts';
export * from './mask.ts';
export * from './quantise.ts';
export * from './secagg-client.ts';
export * from './secagg-server.ts';
export * from './shamir.ts';
