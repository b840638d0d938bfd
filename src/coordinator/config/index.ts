export { checkMachine, settingsWithoutEffect } from './checks.ts';
export * from './error.ts';
export * from './format.ts';
export * from './overrides.ts';
export * from './read.ts';
export * from './resolve.ts';
export * from './schema.ts';
export * from './sections.ts';
export * from './suggest.ts';
