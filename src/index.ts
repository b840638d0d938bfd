/**
 * The public face of Plexus: everything that the command line can do is a call of what is exported here. Each room has
 * its own subpath as well (`plexus/engine`, `plexus/modules`, ...).
 */

export * from './comm/index.ts';
export * from './coordinator/index.ts';
export * from './data/index.ts';
export * from './engine/index.ts';
// Rooms may use a name for different things; here it means the one that more people look for.
export { signatureOf } from './engine/index.ts';
export * from './modules/index.ts';
export * from './optim/index.ts';
export * from './plan/index.ts';
export * from './schedulers/index.ts';
export * from './tensor/index.ts';
export * from './worker/index.ts';
