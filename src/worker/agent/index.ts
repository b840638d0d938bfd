export * from './model.ts';
export * from './protocol.ts';
export * from './refusal.ts';
export * from './version.ts';
