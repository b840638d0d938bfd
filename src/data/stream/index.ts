export * from './stream.ts';
export * from './views.ts';
