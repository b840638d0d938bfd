export * from './folder.ts';
export * from './store.ts';
