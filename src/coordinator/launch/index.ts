export * from './checkpoint-writer.ts';
export * from './drive.ts';
export * from './pool.ts';
export * from './progress.ts';
export * from './run-session.ts';
export * from './thread-snapshot.ts';
export * from './workers.ts';
