export * from './folder.ts';
export { type NatsStore, type NatsStoreOptions, natsStore } from './nats.ts';
export * from './nats-runs.ts';
export * from './open.ts';
export * from './store.ts';
