export * from './pool.ts';
export * from './progress.ts';
export * from './run-session.ts';
