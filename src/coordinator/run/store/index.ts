export * from './folder.ts';
export { fetchRun, type NatsStore, type NatsStoreOptions, natsStore, storedRuns } from './nats.ts';
export * from './open.ts';
export * from './store.ts';
